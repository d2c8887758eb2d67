// Packing: each stage's weights where the kernels of an instruction set want them, and what a filter's sums are begun
// with and multiplied by.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_PACKING_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_PACKING_H_

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "common/requantization.h"
#include "qlinear_mobile/qlinear_mobile.h"
#include "qlinear_mobile/qlinear_mobile_blocks.h"

namespace {

constexpr int kDense = EDGECONV_MOBILE_DENSE, kDepthwise = EDGECONV_MOBILE_DEPTHWISE,
              kPointwise = EDGECONV_MOBILE_POINTWISE;

long long as_long(int64_t value) { return static_cast<long long>(value); }

int64_t taps_of(const EdgeconvConvShape& shape) {
  return shape.in_channels / shape.group * shape.kernel_height * shape.kernel_width;
}

// Calls put(index in the packed weights, filter, tap) for the taps of all filters; what it is not called for is
// padding.
template <typename Put>
void for_each_weight(const EdgeconvQLinearMobileIsa& isa, const EdgeconvQLinearMobilePlan& plan, int stage,
                     const EdgeconvConvShape& shape, const Put& put) {
  const EdgeconvMobilePacked& packed = plan.packed[stage];
  const int64_t area = shape.kernel_height * shape.kernel_width, channels = shape.in_channels / shape.group;
  const int64_t padded = stage == kDepthwise ? 0 : packed.depth / area;
  const int64_t variants = stage == kDepthwise ? depthwise_variants(shape, isa.depth) : 1;
  const int64_t variant_groups = packed.depth / isa.depth / variants;
  for (int64_t index = 0; index < packed.blocks; ++index) {
    const ChannelBlock block = channel_block(shape.out_channels, isa.lanes, packed.blocks, index);
    for (int64_t vector = 0; vector < block.vectors; ++vector) {
      for (int64_t lane = 0; lane < isa.lanes; ++lane) {
        const int64_t filter = block.first + channel_of_lane(block.vectors, vector, lane);
        if (filter >= shape.out_channels) continue;
        for (int64_t tap = 0; tap < channels * area; ++tap) {
          const int64_t channel = tap / area, row = tap % area / shape.kernel_width, column = tap % shape.kernel_width;
          for (int64_t variant = 0; variant < variants; ++variant) {
            // Which group of isa.depth activations has the tap, and where in it.
            const int64_t at = stage == kDepthwise ? (row + variant * shape.stride_height)
                                                   : (row * shape.kernel_width + column) * padded + channel;
            int64_t group = at / isa.depth;
            if (stage == kDepthwise) group = (variant * variant_groups) + group * shape.kernel_width + column;
            put(block.first * packed.depth + ((group * block.vectors + vector) * isa.lanes + lane) * isa.depth +
                    at % isa.depth,
                filter, filter * channels * area + tap);
          }
        }
      }
    }
  }
}

// Where the results of a filter are among the block's lanes.
int64_t lane_of(const EdgeconvQLinearMobileIsa& isa, const EdgeconvQLinearMobilePlan& plan, int stage,
                const EdgeconvConvShape& shape, int64_t place) {
  const int64_t blocks = plan.packed[stage].blocks;
  for (int64_t index = 0; index < blocks; ++index) {
    const ChannelBlock block = channel_block(shape.out_channels, isa.lanes, blocks, index);
    const int64_t local = place - block.first;
    if (local >= block.vectors * isa.lanes) continue;
    return block.first + channel_of_lane(block.vectors, local / isa.lanes, local % isa.lanes);
  }
  return -1;
}

// Whether a stage's results are cut by the ends of the type alone, of which the lowest is the zero-point.
bool only_saturates(const EdgeconvQLinearMobileParams& params, const EdgeconvQLinearStage& stage) {
  const int lowest = params.type == EDGECONV_INT8 ? -128 : 0;
  return stage.y.zero_point == lowest && stage.least <= 0.0f && std::nearbyint(stage.most / stage.y.scale) >= 255.0f;
}

int pack_stage(const EdgeconvQLinearMobileParams& params, const EdgeconvQLinearMobileIsa& isa,
               const EdgeconvQLinearMobilePlan& plan, int stage, const EdgeconvQLinearGrid& x,
               const EdgeconvQLinearWeights& given, uint8_t* packed, EdgeconvStatus* status) {
  const EdgeconvQLinearStage& to = params.stages[stage];
  const EdgeconvConvShape& shape = to.shape;
  const EdgeconvMobilePacked& place = plan.packed[stage];
  for_each_weight(isa, plan, stage, shape, [&](int64_t index, int64_t, int64_t from) {
    if (isa.element_bytes == 1) {
      reinterpret_cast<int8_t*>(packed + place.weights)[index] = given.w[from];
    } else {
      reinterpret_cast<int16_t*>(packed + place.weights)[index] = given.w[from];
    }
  });
  const int64_t taps = taps_of(shape), padded = round_up(shape.out_channels, isa.lanes);
  const int64_t zero = x.zero_point + (params.type == EDGECONV_INT8 ? 128 : 0) - isa.offset;
  EdgeconvMobileHeader* const header = reinterpret_cast<EdgeconvMobileHeader*>(packed);
  int64_t reach = 0;
  int32_t* const biases = reinterpret_cast<int32_t*>(packed + place.bias);
  float* const multipliers = reinterpret_cast<float*>(packed + place.multipliers);
  for (int64_t i = 0; i < padded; ++i) {
    const int64_t filter = lane_of(isa, plan, stage, shape, i);
    if (filter < 0 || filter >= shape.out_channels) continue;
    int64_t sum = 0, most = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t w = given.w[filter * taps + tap];
      sum += w;
      most += std::abs(w) * 255;
    }
    const int64_t bias = given.bias == nullptr ? 0 : given.bias[filter], largest = most + std::abs(bias);
    if (largest > INT32_MAX) {
      return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                                 "filter %lld: its sum may reach %lld, bias %lld included, which does not fit into 32 "
                                 "bits",
                                 as_long(filter), as_long(largest), as_long(bias));
    }
    const double scale = given.scale[filter * given.scale_stride];
    const double product = static_cast<double>(x.scale) * scale;
    multipliers[i] = edgeconv_multiplier(product / static_cast<double>(to.y.scale));
    if (params.function != EDGECONV_NO_FUNCTION) {
      multipliers[i] = static_cast<float>(product);
      double squares = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        squares += static_cast<double>(given.w[filter * taps + tap]) * given.w[filter * taps + tap];
      }
      const float first = given.first == nullptr ? 0 : given.first[filter * given.first_stride];
      float* const functions = reinterpret_cast<float*>(packed + place.functions) + i;
      functions[0] = params.function == EDGECONV_QLINEAR_GAUSSIAN ? -first : first;
      functions[padded] = given.second == nullptr ? 0 : given.second[filter * given.second_stride];
      functions[2 * padded] = static_cast<float>(scale * scale * squares);
      functions[3 * padded] = given.real_bias[filter];
    }
    // Modulo 2^32: whatever it passes on the way, the sum fits in the end.
    biases[i] = static_cast<int32_t>(static_cast<uint32_t>(bias - zero * sum));
    if (!(static_cast<double>(largest) * multipliers[i] < 2e9)) header->far[stage] = 1;
    reach = std::max(reach, largest);
  }
  if (isa.biased && params.function == EDGECONV_NO_FUNCTION && !header->far[stage] &&
      (stage == kDepthwise || stage < plan.last) && reach < int64_t{1} << 22 && only_saturates(params, to)) {
    header->biased[stage] = 1;
    for (int64_t i = 0; i < padded; ++i) {
      biases[i] += 0x4b400000;  // 1.5 * 2^23, as bits
      reinterpret_cast<float*>(packed + place.offsets)[i] = -12582912.0f * multipliers[i];
    }
  }
  return status->code = EDGECONV_OK;
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_PACKING_H_
