// What device code needs beyond CUDA C++, for compute capability 8.0 and later: tensor cores, cp.async, sums over
// bytes. Every .cu file includes this and nothing of CUDA's. Under nvcc it is PTX; where EDGECONV_SIMT is defined, a
// .cu file is C++ that runs on the host (simt/device.h). Functions and macros are the same:
//
//   EDGECONV_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)    a cudaError_t
//   allow_dynamic_shared(kernel, bytes)            before a launch with more than 48 KiB; a cudaError_t
//   EDGECONV_SHARED(float, tile, [16][17]);        a static array of shared memory, on 16 bytes; no dimensions: a
//   scalar EDGECONV_DYNAMIC_SHARED(char, memory);         a pointer to the launch's shared_bytes, on 16 bytes
//
//   mma_m16n8k16_f16(sums, a, b)                   sums[16][8] += a[16][k] * b[k][8] by a warp, of which each lane
//   holds mma_m16n8k8_tf32(sums, a, b)                   sums[4], a[4], b[2]. With group = lane / 4, member = lane % 4
//   and mma_m16n8k32<int8_t, uint8_t>(sums, a, b)      p = 2, 1 or 4 elements in a register, which follow each other in
//   k:
//       a[0] row group, a[1] row group + 8, k from p * member on;  a[2], a[3] the same, 4 * p further in k
//       b[0] column group, k from p * member on;                   b[1] 4 * p further in k
//       sums[0], sums[1] row group, columns 2 * member and the next; sums[2], sums[3] row group + 8
//   round_to_tf32(x)                               the register for an element; without it mma drops 13 bits
//   ldmatrix_x4(to, row)  ldmatrix_x2(to, row)     8 x 8 matrices of 16-bit elements: lane 8 * m + r gives the address
//                                                  of row r of matrix m, and to[m] gets row lane / 4, elements
//                                                  2 * (lane % 4) and the next: what mma takes
//   ldmatrix_x4_trans, ldmatrix_x2_trans           the same of the transposed matrices
//
//   cp_async<16>(shared, global, valid_bytes)      4, 8 or 16 bytes, both addresses multiples of that; the rest after
//                                                  valid_bytes is zero, and nothing of it is read
//   cp_async_commit()  cp_async_wait<n>()          of this thread's copies: all groups but the latest n are complete;
//                                                  other threads see them after the next barrier
//
//   dot4<A, B>(a, b, sum)  sad4<Byte>(a, b, sum)   sum + a.b, sum + |a - b|_1 over four bytes, A and B int8_t or
//   uint8_t
#ifndef EDGECONV_COMMON_CUDA_DEVICE_H_
#define EDGECONV_COMMON_CUDA_DEVICE_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <type_traits>

#if defined(EDGECONV_SIMT)
#include "common/simt/device.h"
#elif !defined(__CUDACC__)
#error "Device code is compiled by nvcc, or as C++ with EDGECONV_SIMT defined."
#else

#define EDGECONV_SHARED(Type, name, ...) __shared__ __align__(16) Type name __VA_ARGS__
#define EDGECONV_DYNAMIC_SHARED(Type, name)                 \
  extern __shared__ __align__(16) char edgeconv_dynamic_[]; \
  Type* const name = reinterpret_cast<Type*>(edgeconv_dynamic_)
#define EDGECONV_LAUNCH(...) launch_kernel(__VA_ARGS__)

namespace {

// Arguments are converted to what the kernel takes.
template <typename... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, std::common_type_t<Parameters>... arguments) {
  void* pointers[sizeof...(Parameters) + 1] = {&arguments..., nullptr};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream);
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#define EDGECONV_MMA_INT8(a_type, b_type)                                             \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." a_type "." b_type             \
               ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <typename A, typename B>
__device__ __forceinline__ void mma_m16n8k32(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(sizeof(A) == 1 && sizeof(B) == 1, "elements are int8_t or uint8_t");
  if constexpr (std::is_signed_v<A> && std::is_signed_v<B>) {
    EDGECONV_MMA_INT8("s8", "s8");
  } else if constexpr (std::is_signed_v<A>) {
    EDGECONV_MMA_INT8("s8", "u8");
  } else if constexpr (std::is_signed_v<B>) {
    EDGECONV_MMA_INT8("u8", "s8");
  } else {
    EDGECONV_MMA_INT8("u8", "u8");
  }
}
#undef EDGECONV_MMA_INT8

__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ uint32_t shared_address(const void* generic) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(generic));
}

// "memory": plain stores to shared memory must not move across.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&to)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&to)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes pass by the L1 cache (.cg), which no other block reads through; fewer cannot.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(valid_bytes)
                 : "memory");
  }
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <typename A, typename B>
__device__ __forceinline__ int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  int32_t result;
  if constexpr (std::is_signed_v<A> && std::is_signed_v<B>) {
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  } else if constexpr (std::is_signed_v<A>) {
    asm("dp4a.s32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  } else if constexpr (std::is_signed_v<B>) {
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  } else {
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  }
  return result;
}

template <typename Byte>
__device__ __forceinline__ uint32_t sad4(uint32_t a, uint32_t b, uint32_t sum) {
  uint32_t result;
  if constexpr (std::is_signed_v<Byte>) {
    asm("vabsdiff4.u32.s32.s32.add %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  } else {
    asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  }
  return result;
}

}  // namespace

#endif  // host execution or PTX

namespace {

template <typename... Parameters>
cudaError_t allow_dynamic_shared(void (*kernel)(Parameters...), int64_t bytes) {
  if (bytes <= 48 << 10) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

// The sum over a warp of which all lanes call it; every lane gets it.
template <typename Value>
__device__ __forceinline__ Value warp_sum(Value value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DEVICE_H_
