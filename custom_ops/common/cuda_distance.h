// What the kernels of sums and maxima of |x - w| share: how they see a convolution, words of taps, and the arithmetic
// on words. A tap is one input value of a patch; a word of 32 bits holds one float, two halves or four bytes, of
// channels that follow each other. Filters are packed alike, so that a step of a kernel takes a word of each.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_H_

#include <math.h>

#include "common/conv_shape.h"
#include "common/cuda_device.h"

namespace {

template <typename Integer>
constexpr __host__ __device__ Integer divide_up(Integer count, Integer size) {
  return (count + size - 1) / size;
}

// The convolution in 32 bits.
struct DistanceShape {
  int in_height, in_width, out_height, out_width;
  int kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width, pad_top, pad_left;
  int batch, groups;
  int depth, filters;  // input and output channels of a group
  int positions;       // of all images
};

inline DistanceShape distance_shape(const EdgeconvConvShape& shape) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  DistanceShape result = {};
  result.in_height = narrow(shape.in_height), result.in_width = narrow(shape.in_width);
  result.out_height = narrow(shape.out_height), result.out_width = narrow(shape.out_width);
  result.kernel_height = narrow(shape.kernel_height), result.kernel_width = narrow(shape.kernel_width);
  result.stride_height = narrow(shape.stride_height), result.stride_width = narrow(shape.stride_width);
  result.dilation_height = narrow(shape.dilation_height), result.dilation_width = narrow(shape.dilation_width);
  result.pad_top = narrow(shape.pad_top), result.pad_left = narrow(shape.pad_left);
  result.batch = narrow(shape.batch), result.groups = narrow(shape.group);
  result.depth = narrow(shape.in_channels / shape.group), result.filters = narrow(shape.out_channels / shape.group);
  result.positions = narrow(shape.batch * shape.out_height * shape.out_width);
  return result;
}

// An output position and the pixel under the window's first tap.
struct Position {
  int image, row, column;  // of y
  int y, x;                // of x
};

__device__ __forceinline__ Position position_of(const DistanceShape& shape, int position) {
  Position place;
  const int row = position / shape.out_width;
  place.column = position - row * shape.out_width;
  place.image = row / shape.out_height;
  place.row = row - place.image * shape.out_height;
  place.y = place.row * shape.stride_height - shape.pad_top;
  place.x = place.column * shape.stride_width - shape.pad_left;
  return place;
}

__device__ __forceinline__ bool is_inside(const DistanceShape& shape, int y, int x) {
  return static_cast<unsigned>(y) < static_cast<unsigned>(shape.in_height) &&
         static_cast<unsigned>(x) < static_cast<unsigned>(shape.in_width);
}

// Where an element or a word of activations is: a sum of these times its indices.
struct Strides {
  int image, group, channel, row, column;
};

// Activations of `depth` channels a group: planes, or pixels of `pitch`.
inline Strides activation_strides(bool planar, int depth, int groups, int height, int width, int pitch) {
  const int plane = height * width;
  if (planar) return {groups * depth * plane, depth * plane, plane, width, 1};
  return {plane * pitch, depth, 1, width * pitch, pitch};
}

// One word of a patch: where it is from the window's first tap, and how many of its bytes are there (0: none).
struct alignas(16) TapWord {
  int channel, y, x, bytes;
};

// Arithmetic on words. Each says
//   Sum, Partial       what a thread keeps for an output, and what leaves the kernel
//   kPadsWithBytes     outside the image are bytes of the zero-point; otherwise zeros
//   zero, add, result, combine

__device__ __forceinline__ float largest_of(float a, float b) {  // NaN if one of them is
#if defined(EDGECONV_SIMT)
  return a != a ? a : b != b || b > a ? b : a;
#else
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#endif
}

__device__ __forceinline__ __half2 halves_of(uint32_t word) {
  __half2 halves;
  __builtin_memcpy(static_cast<void*>(&halves), &word, sizeof(halves));
  return halves;
}

__device__ __forceinline__ bool is_finite(float value) { return fabsf(value) < INFINITY; }
__device__ __forceinline__ bool is_finite(__half value) { return is_finite(__half2float(value)); }

struct FloatManhattan {
  using Sum = float;
  using Partial = float;
  static constexpr bool kPadsWithBytes = false;
  static __device__ __forceinline__ Sum zero() { return 0.0f; }
  static __device__ __forceinline__ void add(Sum* sum, uint32_t x, uint32_t w) {
    *sum += fabsf(__uint_as_float(x) - __uint_as_float(w));
  }
  static __device__ __forceinline__ Partial result(Sum sum) { return sum; }
  static __device__ __forceinline__ Partial combine(Partial a, Partial b) { return a + b; }
};

struct FloatChebyshev : FloatManhattan {
  static __device__ __forceinline__ void add(Sum* sum, uint32_t x, uint32_t w) {
    *sum = largest_of(*sum, fabsf(__uint_as_float(x) - __uint_as_float(w)));
  }
  static __device__ __forceinline__ Partial combine(Partial a, Partial b) { return largest_of(a, b); }
};

struct HalfChebyshev {
  using Sum = __half2;
  using Partial = float;
  static constexpr bool kPadsWithBytes = false;
  static __device__ __forceinline__ Sum zero() { return __float2half2_rn(0.0f); }
  static __device__ __forceinline__ void add(Sum* sum, uint32_t x, uint32_t w) {
    *sum = __hmax2_nan(*sum, __habs2(__hsub2(halves_of(x), halves_of(w))));
  }
  static __device__ __forceinline__ Partial result(Sum sum) { return largest_of(__low2float(sum), __high2float(sum)); }
  static __device__ __forceinline__ Partial combine(Partial a, Partial b) { return largest_of(a, b); }
};

// Bytes of one signedness; a sum is below 2^31 (the plan sees to it).
template <typename Byte>
struct ByteManhattan {
  using Sum = uint32_t;
  using Partial = uint32_t;
  static constexpr bool kPadsWithBytes = true;
  static __device__ __forceinline__ Sum zero() { return 0; }
  static __device__ __forceinline__ void add(Sum* sum, uint32_t x, uint32_t w) { *sum = sad4<Byte>(x, w, *sum); }
  static __device__ __forceinline__ Partial result(Sum sum) { return sum; }
  static __device__ __forceinline__ Partial combine(Partial a, Partial b) { return a + b; }
};

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_H_
