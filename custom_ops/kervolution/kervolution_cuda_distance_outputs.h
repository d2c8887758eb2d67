// From distances to outputs of manhattan and chebyshev kervolution.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_OUTPUTS_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_OUTPUTS_H_

#include "common/cuda_distance.h"
#include "kervolution/kervolution_cuda.h"

namespace {

__device__ __forceinline__ float element_to_float(float element) { return element; }
__device__ __forceinline__ float element_to_float(__half element) { return __half2float(element); }

template <typename Element>
__device__ __forceinline__ Element rounded(float value) {
  if constexpr (std::is_same_v<Element, float>) {
    return value;
  } else {
    return __float2half_rn(value);
  }
}

// y = -distance + bias, rounded once.
template <typename Element>
struct NegativeDistance {
  using Value = Element;
  static constexpr bool kChecks = std::is_same_v<Element, __half>;  // differences of halves may overflow

  const Element* bias;
  // For exact().
  const Element *x, *w;
  DistanceShape shape;
  Strides strides;  // of x, in elements
  bool manhattan;

  __device__ __forceinline__ Element operator()(float distance, int channel, int) const {
    // -0 leaves every value as it is.
    return rounded<Element>(-distance + (bias != nullptr ? element_to_float(bias[channel]) : -0.0f));
  }

  // The distance in float32, tap by tap.
  __device__ float exact(int channel, int position) const {
    const Position place = position_of(shape, position);
    const int taps = shape.depth * shape.kernel_height * shape.kernel_width, group = channel / shape.filters;
    const Element* const patch = x + place.image * strides.image + group * strides.group;
    const Element* const filter = w + static_cast<int64_t>(channel) * taps;
    float distance = 0.0f;
#pragma unroll 1
    for (int tap = 0; tap < taps; ++tap) {
      const int column = tap % shape.kernel_width, row = tap / shape.kernel_width % shape.kernel_height;
      const int depth = tap / shape.kernel_width / shape.kernel_height;
      const int at_y = place.y + row * shape.dilation_height, at_x = place.x + column * shape.dilation_width;
      float value = 0.0f;
      if (is_inside(shape, at_y, at_x)) {
        value = element_to_float(patch[depth * strides.channel + at_y * strides.row + at_x * strides.column]);
      }
      const float difference = fabsf(value - element_to_float(filter[tap]));
      distance = manhattan ? distance + difference : largest_of(distance, difference);
    }
    return distance;
  }
};

template <typename Element>
NegativeDistance<Element> negative_distance(const DistanceShape& shape, bool planar, bool manhattan, int x_pitch,
                                            const EdgeconvKervolutionCudaArguments& arguments) {
  NegativeDistance<Element> finish = {};
  finish.bias = static_cast<const Element*>(arguments.bias);
  finish.x = static_cast<const Element*>(arguments.x);
  finish.w = static_cast<const Element*>(arguments.w);
  finish.shape = shape;
  finish.strides = activation_strides(planar, shape.depth, shape.groups, shape.in_height, shape.in_width, x_pitch);
  finish.manhattan = manhattan;
  return finish;
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_OUTPUTS_H_
