// Bytes of filters for device code, and outputs from sums.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_OUTPUTS_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_OUTPUTS_H_

#include "common/cuda_distance.h"
#include "qlinear_kervolution/qlinear_kervolution_cuda.h"

namespace {

// Steps of float32 that are rounded one by one, as on CPUs: saturate(round(v / y_scale) + y_zero_point) with
// v = -(scale * sum) + bias.
struct QuantizedDistance {
  using Value = uint8_t;
  static constexpr bool kChecks = false;

  const float* bias;
  const int32_t* constants;  // added to the sums of bytes
  float scale;               // of x where sums are integers, else 1
  float y_scale;
  float low, high;  // of a rounded quotient
  int y_zero_point;

  __device__ __forceinline__ Value operator()(float sum, int channel, int) const {
    const float distance = -__fmul_rn(scale, sum);
    // -0 leaves every value as it is.
    const float value = __fadd_rn(distance, bias != nullptr ? bias[channel] : -0.0f);
    // NaN becomes the lowest.
    const float quotient = fminf(fmaxf(__fdiv_rn(value, y_scale), low), high);
    return static_cast<Value>(__float2int_rn(quotient) + y_zero_point);
  }
  __device__ __forceinline__ Value operator()(uint32_t sum, int channel, int position) const {
    return (*this)(__int2float_rn(static_cast<int>(sum) + constants[channel]), channel, position);
  }
};

inline int lowest(int32_t type) { return type == EDGECONV_INT8 ? -128 : 0; }

inline QuantizedDistance quantized_distance(const EdgeconvQLinearKervolutionParams& params,
                                            const EdgeconvQLinearKervolutionCudaArguments& arguments,
                                            const int32_t* constants) {
  QuantizedDistance finish = {};
  finish.bias = arguments.bias;
  finish.constants = constants;
  finish.scale = params.sums == EDGECONV_INTEGER_SUMS ? params.x_scale : 1.0f;
  finish.y_scale = arguments.y_scale;
  finish.low = static_cast<float>(lowest(params.y_type) - arguments.y_zero_point);
  finish.high = static_cast<float>(lowest(params.y_type) + 255 - arguments.y_zero_point);
  finish.y_zero_point = arguments.y_zero_point;
  return finish;
}

__device__ __forceinline__ int byte_value(bool is_signed, const void* values, int64_t index) {
  return is_signed ? static_cast<const int8_t*>(values)[index] : static_cast<const uint8_t*>(values)[index];
}

// A filter's elements, taps in the order of ONNX.
struct QuantizedFilters {
  EdgeconvQLinearFilters filters;
  bool is_signed;
  int taps;

  __device__ __forceinline__ int steps(int filter, int tap) const {
    return byte_value(is_signed, filters.w, static_cast<int64_t>(filter) * taps + tap) -
           byte_value(is_signed, filters.zero_point, filter * filters.zero_point_stride);
  }
};

// As real numbers, or as whole steps.
struct FilterFloats : QuantizedFilters {
  bool real;
  __device__ float operator()(int filter, int tap) const {
    const float value = static_cast<float>(steps(filter, tap));
    return real ? __fmul_rn(value, filters.scale[filter * filters.scale_stride]) : value;
  }
};

struct FilterFloatBits {
  FilterFloats floats;
  __device__ uint32_t operator()(int filter, int tap) const { return __float_as_uint(floats(filter, tap)); }
};

// In the input's steps and cut to its bytes. As x is never outside, the cut takes the same from |x - w| for every x.
struct FilterBytes : QuantizedFilters {
  int x_zero_point, low;
  __device__ __forceinline__ int whole(int filter, int tap) const { return steps(filter, tap) + x_zero_point; }
  __device__ __forceinline__ int kept(int filter, int tap) const {
    return min(max(whole(filter, tap), low), low + 255);
  }
  __device__ uint32_t operator()(int filter, int tap) const { return static_cast<uint32_t>(kept(filter, tap)) & 0xff; }
};

// What the cut takes from the sums of a filter: a warp a filter. Thread 0 also leaves a word of zero-points.
__global__ void __launch_bounds__(256)
    pack_constants(int filters, const FilterBytes source, int32_t* constants, uint32_t* outside) {
  const int thread = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x), filter = thread / 32;
  if (thread == 0) *outside = 0x01010101u * (static_cast<uint32_t>(source.x_zero_point) & 0xff);
  int sum = 0;
  if (filter < filters) {
    for (int tap = thread % 32; tap < source.taps; tap += 32) {
      sum += abs(source.whole(filter, tap) - source.kept(filter, tap));
    }
  }
  sum = warp_sum(sum);
  if (filter < filters && thread % 32 == 0) constants[filter] = sum;
}

// An input's bytes as they are, and as floats.
struct Bytes {
  using Element = uint8_t;
  static constexpr int kPerWord = 4;
  __device__ __forceinline__ uint32_t operator()(const Element* from) const { return *from; }
};

struct ByteFloats {
  using Element = uint8_t;
  bool is_signed;
  int zero_point;
  float scale;  // 1 for whole steps
  __device__ __forceinline__ float operator()(const Element* from) const {
    return __fmul_rn(static_cast<float>(byte_value(is_signed, from, 0) - zero_point), scale);
  }
};

struct ByteFloatBits {
  using Element = uint8_t;
  static constexpr int kPerWord = 1;
  ByteFloats floats;
  __device__ __forceinline__ uint32_t operator()(const Element* from) const { return __float_as_uint(floats(from)); }
};

}  // namespace

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_OUTPUTS_H_
