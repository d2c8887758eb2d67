// Kervolutions: what becomes of a dense stage's sums where it is not a step of their own, but one of a function of
// them. The squared norm of a position's window is a sum of those of its pixels.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_FUNCTION_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_FUNCTION_H_

#include "common/vector_math.h"
#include "qlinear_mobile/qlinear_mobile_input.h"

namespace {

// Of one block of channels.
struct FunctionBlock {
  int32_t kind;  // an EdgeconvQLinearFunction
  int64_t degree;
  const float *products, *first, *second, *norms, *bias;
  float y_scale, low, high;  // limits of steps, less the zero-point
  const Narrowing* narrowing;
};

// Steps of one position. Not in the tile, which has many positions and would be as many times as large.
template <int vectors>
__attribute__((noinline)) Dots::Vector function_steps(const FunctionBlock& block, const Dots::Int* sums, float norm) {
  Dots::Int steps[vectors];
  const Simd::Float low = Simd::set(block.low), high = Simd::set(block.high), y_scale = Simd::set(block.y_scale);
  for (int v = 0; v < vectors; ++v) {
    const int at = v * Dots::kLanes;
    const Simd::Float dot = Simd::mul(Ints::to_float(sums[v]), Simd::load(block.products + at));
    const Simd::Float first = Simd::load(block.first + at), second = Simd::load(block.second + at);
    Simd::Float y;
    if (block.kind == EDGECONV_QLINEAR_POLYNOMIAL) {
      y = integer_power(Simd::add(dot, second), block.degree);
    } else if (block.kind == EDGECONV_QLINEAR_SIGMOID) {
      y = hyperbolic_tangent(Simd::add(Simd::mul(first, dot), second));
    } else {
      const Simd::Float norms = Simd::add(Simd::set(norm), Simd::load(block.norms + at));
      const Simd::Float distance = clamp_at_zero(Simd::sub(norms, Simd::add(dot, dot)));
      y = block.kind == EDGECONV_QLINEAR_GAUSSIAN ? exponential(Simd::mul(first, distance))
                                                  : Simd::sub(Simd::zero(), distance);
    }
    y = Simd::div(Simd::add(y, Simd::load(block.bias + at)), y_scale);
    steps[v] = Ints::round_between(y, low, high);
  }
  return Dots::narrow<vectors>(steps, block.narrowing->limits);
}

// The call's result, as StoreResult.
struct StoreFunction {
  static constexpr bool biased = false;
  uint8_t* y;  // of the block's first channel
  int64_t y_stride;
  int64_t channels;  // of the block
  uint8_t flip;
  const FunctionBlock* block;
  const float* norms;  // of positions; null where the function takes none

  void advance(int64_t positions) {
    y += positions * y_stride;
    if (norms != nullptr) norms += positions;
  }

  template <int vectors>
  static constexpr int together() {
    return 1;
  }
  template <int vectors, int positions>
  __attribute__((always_inline)) inline void finish(const Dots::Int* sums, const Factors<vectors, biased>&) {
    const Dots::Vector bytes = function_steps<vectors>(*block, sums, norms == nullptr ? 0.0f : *norms);
    Dots::store_bytes<vectors>(y, bytes, channels, flip);
    advance(1);
  }
};

// Of `count` pixels of X in a row, the sums over channels of (X - x_zero_point)^2.
inline void sum_squares(const Call& call, const uint8_t* from, int64_t count, int64_t channels, int64_t plane,
                        int32_t* to) {
  const int zero = call.params->x.zero_point + (call.flip ? 128 : 0);
  const auto square = [&](uint8_t byte) {
    const int step = static_cast<int>(byte ^ call.flip) - zero;
    return step * step;
  };
  if (call.params->x_channels_last) {
    for (int64_t i = 0; i < count; ++i, from += channels) {
      int32_t sum = 0;
      for (int64_t c = 0; c < channels; ++c) sum += square(from[c]);
      to[i] = sum;
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i] = 0;
  for (int64_t c = 0; c < channels; ++c, from += plane) {
    for (int64_t i = 0; i < count; ++i) to[i] += square(from[i]);
  }
}

// The squared norms of the windows of rows [first, last) of results, in the scratch.
inline void find_norms(const Call& call, int64_t item, int64_t first, int64_t last) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  if (plan.norms == 0) return;
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DENSE].shape;
  const int64_t height = shape.in_height, width = shape.in_width, channels = shape.in_channels;
  const int64_t top = first * shape.stride_height - shape.pad_top;
  const int64_t begin = most_of(top, 0);
  const int64_t seen = (last - first - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
  const int64_t end = least_of(top + seen, height);
  int32_t* const pixels = reinterpret_cast<int32_t*>(call.scratch + plan.pixels);
  float* norms = reinterpret_cast<float*>(call.scratch + plan.norms);
  const bool last_axis = call.params->x_channels_last != 0;
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* const x =
        call.arguments->x + item * channels * height * width + row * width * (last_axis ? channels : 1);
    sum_squares(call, x, width, channels, height * width, pixels + (row - begin) * width);
  }
  const float scale = call.params->x.scale * call.params->x.scale;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t column = 0; column < shape.out_width; ++column) {
      int32_t sum = 0;
      for (int64_t i = 0; i < shape.kernel_height; ++i) {
        const int64_t from = row * shape.stride_height - shape.pad_top + i * shape.dilation_height;
        if (from < 0 || from >= height) continue;
        for (int64_t j = 0; j < shape.kernel_width; ++j) {
          const int64_t at = column * shape.stride_width - shape.pad_left + j * shape.dilation_width;
          if (at >= 0 && at < width) sum += pixels[(from - begin) * width + at];
        }
      }
      *norms++ = scale * static_cast<float>(sum);
    }
  }
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_FUNCTION_H_
