// One GPU's ceilings: how fast it accumulates what a kervolution accumulates, operands in registers. cuda_ceilings.py
// compiles this, launches it and reads CUDA's events.
//
// Each step takes the sum that the step before it left, so that nothing can be hoisted out of the loop; a thread has
// kChains sums, which hides the latency.
#include "common/cuda_device.h"

namespace {

constexpr int kThreads = 256;
constexpr int kChains = 16;
constexpr int kUnrolled = 8;

struct DotFloat32 {
  typedef float Sum;
  static constexpr int kElements = 1;
  static __device__ __forceinline__ Sum start(float seed) { return seed; }
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return fmaf(sum, x, x); }
};

struct ManhattanFloat32 : DotFloat32 {
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return sum + fabsf(x - sum); }
};

struct ChebyshevFloat32 : DotFloat32 {
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return fmaxf(sum, fabsf(x - sum)); }
};

struct ManhattanFloat16 {
  typedef __half2 Sum;
  static constexpr int kElements = 2;
  static __device__ __forceinline__ Sum start(float seed) { return __float2half2_rn(seed); }
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return __hadd2(sum, __habs2(__hsub2(x, sum))); }
};

struct ChebyshevFloat16 : ManhattanFloat16 {
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return __hmax2(sum, __habs2(__hsub2(x, sum))); }
};

struct ManhattanBytes {
  typedef uint32_t Sum;
  static constexpr int kElements = 4;
  static __device__ __forceinline__ Sum start(float seed) { return __float_as_uint(seed); }
  static __device__ __forceinline__ Sum step(Sum sum, Sum x) { return sad4<uint8_t>(sum, x, sum); }
};

template <typename Form>
__global__ void __launch_bounds__(kThreads) accumulate(int iterations, float seed, float* sink) {
  typename Form::Sum sums[kChains];
  const typename Form::Sum x = Form::start(seed * 0.5f);
#pragma unroll
  for (int i = 0; i < kChains; ++i) sums[i] = Form::start(seed + static_cast<float>(threadIdx.x + i));
  for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
    for (int step = 0; step < kUnrolled; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) sums[i] = Form::step(sums[i], x);
    }
  }
  typename Form::Sum total = sums[0];
#pragma unroll
  for (int i = 1; i < kChains; ++i) total = Form::step(total, sums[i]);
  // Never true, but the compiler does not know.
  if (seed < 0.0f) reinterpret_cast<typename Form::Sum*>(sink)[threadIdx.x] = total;
}

enum class Mma { kFloat16, kTf32, kBytes };

template <Mma form, typename Sum>
__global__ void __launch_bounds__(kThreads) multiply(int iterations, float seed, Sum* sink) {
  constexpr int kTiles = 8;
  Sum sums[kTiles][4];
  const uint32_t bits = __float_as_uint(seed) + threadIdx.x;
  const uint32_t a[4] = {bits, bits + 1, bits + 2, bits + 3}, b[2] = {bits + 4, bits + 5};
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = static_cast<Sum>(seed);
  }
  for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if constexpr (form == Mma::kFloat16) {
        mma_m16n8k16_f16(sums[i], a, b);
      } else if constexpr (form == Mma::kTf32) {
        mma_m16n8k8_tf32(sums[i], a, b);
      } else {
        mma_m16n8k32<int8_t, int8_t>(sums[i], a, b);
      }
    }
  }
  Sum total = 0;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) total += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (seed < 0.0f) sink[threadIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads) read(const float4* from, int64_t count, float* sink) {
  float total = 0.0f;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    const float4 value = __ldg(from + i);
    total += value.x + value.y + value.z + value.w;
  }
  if (total == -1.25f) sink[threadIdx.x] = total;
}

template <typename Form>
cudaError_t run(int blocks, int iterations, float* sink, cudaStream_t stream, double* elements) {
  *elements = 1.0 * blocks * kThreads * iterations * kUnrolled * kChains * Form::kElements;
  return EDGECONV_LAUNCH(accumulate<Form>, dim3(blocks), dim3(kThreads), 0, stream, iterations, 1.0f, sink);
}

template <Mma form, typename Sum>
cudaError_t run_mma(int blocks, int iterations, void* sink, cudaStream_t stream, double products, double* elements) {
  *elements = 1.0 * blocks * (kThreads / 32) * iterations * 8 * products;
  return EDGECONV_LAUNCH(multiply<form, Sum>, dim3(blocks), dim3(kThreads), 0, stream, iterations, 1.0f,
                         static_cast<Sum*>(sink));
}

}  // namespace

extern "C" {

// Launches form `form` (cuda_ceilings.FORMS) and says how many elements it accumulates. A cudaError_t; -1: no such
// form.
__attribute__((visibility("default"))) int edgeconv_ceiling(int form, int blocks, int iterations, void* sink,
                                                            void* stream, double* elements) {
  float* const floats = static_cast<float*>(sink);
  cudaStream_t const on = static_cast<cudaStream_t>(stream);
  switch (form) {
    case 0: return run<DotFloat32>(blocks, iterations, floats, on, elements);
    case 1: return run_mma<Mma::kTf32, float>(blocks, iterations, sink, on, 16 * 8 * 8, elements);
    case 2: return run_mma<Mma::kFloat16, float>(blocks, iterations, sink, on, 16 * 8 * 16, elements);
    case 3: return run_mma<Mma::kBytes, int32_t>(blocks, iterations, sink, on, 16 * 8 * 32, elements);
    case 4: return run<ManhattanFloat32>(blocks, iterations, floats, on, elements);
    case 5: return run<ChebyshevFloat32>(blocks, iterations, floats, on, elements);
    case 6: return run<ManhattanFloat16>(blocks, iterations, floats, on, elements);
    case 7: return run<ChebyshevFloat16>(blocks, iterations, floats, on, elements);
    case 8: return run<ManhattanBytes>(blocks, iterations, floats, on, elements);
    default: return -1;
  }
}

// Reads `bytes` bytes once. A cudaError_t.
__attribute__((visibility("default"))) int edgeconv_read(int blocks, const void* from, int64_t bytes, void* sink,
                                                         void* stream) {
  return EDGECONV_LAUNCH(read, dim3(blocks), dim3(kThreads), 0, static_cast<cudaStream_t>(stream),
                         static_cast<const float4*>(from), bytes / 16, static_cast<float*>(sink));
}

}  // extern "C"
