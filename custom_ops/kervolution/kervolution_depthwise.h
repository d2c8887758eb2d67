// Filters of one input channel each. There is little to compute for each input, so nothing is unfolded: the padded rows
// of a channel lie in L1, split by their columns' phase where the stride is more than one, so that every tap is a
// contiguous read.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_

#include "common/micro_kernel.h"
#include "kervolution/kervolution_epilogue.h"

namespace {

constexpr int kRowVectors = 4;

// Outputs at `count` positions of one row, at most `vectors` vectors of them. `rows` is the row's first input.
template <int kernel, typename A, int vectors, typename Element>
inline void depthwise_vectors(const float* rows, const int32_t* offsets, const float* weights, int64_t taps,
                              const Channel& channel, int64_t count, Element* y) {
  const A arithmetic;
  typename A::Vector sums[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) sums[v] = A::zero();
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* from = rows + offsets[tap];
    const typename A::Vector w = A::set(weights[tap]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sums[v] = arithmetic.accumulate(sums[v], A::load(from + v * Simd::kLanes), w);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    finish_vector<kernel, Summed::kArgument>(sums[v], Simd::zero(), channel, count - v * Simd::kLanes,
                                             y + v * Simd::kLanes);
  }
}

template <int kernel, typename A, typename Element>
void run_depthwise(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvKervolutionPlan& plan = *task.plan;
  const int64_t phases = shape.stride_width, pitch = plan.pitch;
  const Element* x = group_input<Element>(task);
  int32_t* const offsets = reinterpret_cast<int32_t*>(task.scratch + plan.offsets);
  for (int64_t i = 0, tap = 0; i < shape.kernel_height; ++i) {
    for (int64_t j = 0; j < shape.kernel_width; ++j, ++tap) {
      const int64_t column = j * shape.dilation_width;
      offsets[tap] =
          static_cast<int32_t>((i * shape.dilation_height * phases + column % phases) * pitch + column / phases);
    }
  }
  const int64_t first_row = task.block.row * shape.stride_height - shape.pad_top;
  const int64_t rows =
      (task.block.rows - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
  float* to = task.scratch;
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    for (int64_t phase = 0; phase < phases; ++phase, to += pitch) {
      const RowSpan span(shape.in_width, task.block.column * phases - shape.pad_left + phase, phases,
                         pitch - Simd::kLanes);
      if (row >= 0 && row < shape.in_height) {
        fill_row(x + row * shape.in_width, span, to);
      } else {
        fill_zeros(to, span.columns);
      }
    }
  }
  fill_zeros(to, Simd::kLanes * kRowVectors);  // the last vectors may read past the rows
  const int64_t taps = plan.tiling.taps;
  for (int64_t channel = task.first_channel; channel < task.last_channel; ++channel) {
    const Channel values = load_channel<kernel, Element>(task, channel);
    const float* weights = task.arguments->packed + (task.group * plan.tiling.group_channels + channel) * taps;
    for (int64_t row = 0; row < task.block.rows; ++row) {
      const float* from = task.scratch + row * shape.stride_height * phases * pitch;
      Element* y = output_of<Element>(task, channel) + row * shape.out_width;
      int64_t c = 0;
      for (; task.block.columns - c > (kRowVectors - 1) * Simd::kLanes; c += kRowVectors * Simd::kLanes) {
        depthwise_vectors<kernel, A, kRowVectors>(from + c, offsets, weights, taps, values, task.block.columns - c,
                                                  y + c);
      }
      const int64_t rest = task.block.columns - c;
      if (rest > 2 * Simd::kLanes) {
        depthwise_vectors<kernel, A, 3>(from + c, offsets, weights, taps, values, rest, y + c);
      } else if (rest > Simd::kLanes) {
        depthwise_vectors<kernel, A, 2>(from + c, offsets, weights, taps, values, rest, y + c);
      } else if (rest > 0) {
        depthwise_vectors<kernel, A, 1>(from + c, offsets, weights, taps, values, rest, y + c);
      }
    }
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_
