// Host execution of device code (FOR TESTS): what common/cuda_device.h includes instead of PTX where EDGECONV_SIMT is
// defined. A .cu file is compiled as C++; the threads of a block are fibers, and a kernel that breaks a rule fails with
// a sentence (settings.h: edgeconv_simt_last_error).
//
//   g++ -std=c++17 -x c++ -DEDGECONV_SIMT -Wno-unknown-pragmas -Icustom_ops -isystem CUDA/include -c kernel.cu
//   (link with the objects of simt/*.cc and with no CUDA library)
//
//   what goes wrong on a GPU               how it shows here
//   a barrier is missing                   threads run in a shuffled order, and shared memory begins as NaN: wrong
//                                          results, as a rule. An error in any order, if the .cu file, and nothing
//                                          else, is compiled with -fsanitize=thread (races.cc)
//   cp.async without its wait              the destination stays NaN until the wait
//   a barrier after some have returned     an error, as are barriers and collectives on different lines
//   mma or ldmatrix of a partial warp      an error, as are lanes outside their mask and unaligned addresses
//   access out of bounds                   guards around shared memory; -fsanitize=address for all memory
//   an unaligned vector access             -fsanitize=alignment
//
// Not here: bank conflicts; __launch_bounds__, so a launch with more threads than a kernel's passes; order of memory
// between blocks (fences do little, and a thread that spins never lets others run); races in global memory; named
// barriers, cooperative launches, textures. mma adds its products up in float32, one after another, as no GPU does:
// last digits differ.
#ifndef EDGECONV_COMMON_SIMT_DEVICE_H_
#define EDGECONV_COMMON_SIMT_DEVICE_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "common/simt/async_copy.h"
#include "common/simt/atomics.h"
#include "common/simt/intrinsics.h"
#include "common/simt/launch.h"
#include "common/simt/matrix.h"
#include "common/simt/place.h"
#include "common/simt/warp.h"

namespace simt {

// Of the current block.
void* static_shared(const void* key, const char* name, size_t bytes);
void* dynamic_shared();

}  // namespace simt

// A plain __shared__ would be a variable like any other.
#undef __shared__
#define __shared__ static_assert(false, "declare shared memory with EDGECONV_SHARED or EDGECONV_DYNAMIC_SHARED");

// nvcc alone can check them.
#undef __launch_bounds__
#define __launch_bounds__(...)

// `name_key` has one address for each declaration, in each instance of a template.
#define EDGECONV_SHARED(Type, name, ...) \
  static const char name##_key = 0;      \
  using name##_type = Type __VA_ARGS__;  \
  name##_type& name = *static_cast<name##_type*>(::simt::static_shared(&name##_key, #name, sizeof(name##_type)))
#define EDGECONV_DYNAMIC_SHARED(Type, name) Type* const name = static_cast<Type*>(::simt::dynamic_shared())

namespace {

template <typename... Parameters>
cudaError_t launch_kernel(const char* text, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t, std::common_type_t<Parameters>... arguments) {
  const auto run = [&] { kernel(arguments...); };
  const auto call = [](const void* data) { (*static_cast<decltype(&run)>(data))(); };
  return simt::launch({text, reinterpret_cast<const void*>(kernel), call, &run}, grid, block, shared_bytes);
}

}  // namespace

#define EDGECONV_LAUNCH(...) launch_kernel(#__VA_ARGS__, __VA_ARGS__)

namespace {

inline void mma_m16n8k16_f16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             simt::Where where = simt::Where::here()) {
  simt::mma_f16(sums, a, b, where);
}

inline void mma_m16n8k8_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             simt::Where where = simt::Where::here()) {
  simt::mma_tf32(sums, a, b, where);
}

template <typename A, typename B>
void mma_m16n8k32(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  simt::Where where = simt::Where::here()) {
  simt::mma_int8(sums, a, b, std::is_signed_v<A>, std::is_signed_v<B>, where);
}

// To nearest, ties away from zero.
inline uint32_t round_to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

inline void ldmatrix_x4(uint32_t (&to)[4], const void* row, simt::Where where = simt::Where::here()) {
  simt::ldmatrix(to, row, 4, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row, simt::Where where = simt::Where::here()) {
  simt::ldmatrix(to, row, 4, true, where);
}
inline void ldmatrix_x2(uint32_t (&to)[2], const void* row, simt::Where where = simt::Where::here()) {
  simt::ldmatrix(to, row, 2, false, where);
}
inline void ldmatrix_x2_trans(uint32_t (&to)[2], const void* row, simt::Where where = simt::Where::here()) {
  simt::ldmatrix(to, row, 2, true, where);
}

template <int kBytes>
void cp_async(void* shared, const void* global, int valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  simt::cp_async(shared, global, kBytes, valid_bytes);
}

inline void cp_async_commit() { simt::cp_async_commit_group(); }

template <int kPending>
void cp_async_wait() {
  simt::cp_async_wait_group(kPending);
}

template <typename A, typename B>
int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  return static_cast<int32_t>(simt::dot4<A, B>(a, b, static_cast<uint32_t>(sum)));
}

template <typename Byte>
uint32_t sad4(uint32_t a, uint32_t b, uint32_t sum) {
  return simt::sad4<Byte>(a, b, sum);
}

}  // namespace

#endif  // EDGECONV_COMMON_SIMT_DEVICE_H_
