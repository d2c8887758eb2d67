// Kernels that are wrong, each in one way, for the tests of what notices it: fault(name, output of at least 64 floats).
#include <string.h>

#include "common/cuda_device.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kThreads = 64;

__global__ void no_barrier_before_read(float* to) {
  EDGECONV_SHARED(float, tile, [kThreads]);
  tile[threadIdx.x] = threadIdx.x;
  to[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

__global__ void no_barrier_before_write(float* to) {
  EDGECONV_SHARED(float, tile, [kThreads]);
  float sum = 0.0f;
  for (int step = 0; step < 4; ++step) {
    tile[threadIdx.x] = step * 100.0f + threadIdx.x;
    __syncthreads();
    sum += tile[kThreads - 1 - threadIdx.x];
  }
  to[threadIdx.x] = sum;
}

// Lanes of one warp need __syncwarp.
__global__ void no_syncwarp(float* to) {
  EDGECONV_SHARED(float, tile, [kThreads]);
  tile[threadIdx.x] = threadIdx.x;
  to[threadIdx.x] = tile[threadIdx.x ^ 1];
}

__global__ void no_wait(const float* from, float* to) {
  EDGECONV_SHARED(float, tile, [kThreads]);
  cp_async<4>(&tile[threadIdx.x], from + threadIdx.x);
  cp_async_commit();
  __syncthreads();
  to[threadIdx.x] = tile[threadIdx.x];
}

__global__ void waits_for_too_few(const float* from, float* to) {
  EDGECONV_SHARED(float, tile, [kThreads]);
  cp_async<4>(&tile[threadIdx.x], from + threadIdx.x);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  to[threadIdx.x] = tile[threadIdx.x];
}

// With seed 0 all others wait when the thread returns.
__global__ void barrier_after_return(float* to) {
  if (threadIdx.x == kThreads - 1) return;
  __syncthreads();
  to[threadIdx.x] = 1.0f;
}

// With seed 0 the thread has returned before the others come.
__global__ void barrier_after_first_returned(float* to) {
  if (threadIdx.x == 0) return;
  __syncthreads();
  to[threadIdx.x] = 1.0f;
}

__global__ void two_barriers(float* to) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  to[threadIdx.x] = 1.0f;
}

__global__ void barrier_and_shuffle(float* to) {
  if (threadIdx.x == 3) __syncthreads();
  to[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
  if (threadIdx.x != 3) __syncthreads();
}

// Half of the warp waits for the other half, which waits for all threads.
__global__ void deadlock(float* to) {
  if (threadIdx.x % 32 < 16) __syncwarp();
  __syncthreads();
  to[threadIdx.x] = 1.0f;
}

__global__ void partial_warp_mma(float* to) {
  const uint32_t a[4] = {}, b[2] = {};
  float sums[4] = {};
  if (threadIdx.x % 32 < 20) mma_m16n8k16_f16(sums, a, b);
  to[threadIdx.x] = sums[0];
}

__global__ void unaligned_ldmatrix(float* to) {
  EDGECONV_SHARED(uint16_t, rows, [64][20]);  // 40 bytes a row
  for (int i = 0; i < 20; ++i) rows[threadIdx.x][i] = 0;
  __syncthreads();
  uint32_t registers[4];
  ldmatrix_x4(registers, rows[threadIdx.x % 32]);
  to[threadIdx.x] = registers[0];
}

__global__ void unaligned_copy(const float* from, float* to) {
  EDGECONV_SHARED(float, tile, [4 * kThreads + 4]);
  cp_async<16>(tile + 4 * threadIdx.x, from + 1);
  cp_async_wait<0>();
  to[threadIdx.x] = tile[threadIdx.x];
}

__global__ void copy_to_global(const float* from, float* to) {
  cp_async<4>(to + threadIdx.x, from + threadIdx.x);
  cp_async_wait<0>();
}

__global__ void lane_outside_mask(float* to) { to[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }

__global__ void divergent_shuffles(float* to) {
  if (threadIdx.x % 2 == 0) {
    to[threadIdx.x] = __shfl_sync(kAll, 1.0f, 0);
  } else {
    to[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
  }
}

__global__ void shuffle_from_absent_lane(float* to) {
  if (threadIdx.x % 32 >= 24) return;
  to[threadIdx.x] = __shfl_xor_sync(0xffffffu, 1.0f, 8);
}

__global__ void dynamic_overrun(float* to) {
  EDGECONV_DYNAMIC_SHARED(float, memory);
  memory[threadIdx.x + 1] = 1.0f;
  to[threadIdx.x] = 1.0f;
}

__global__ void global_overrun(float* to) { to[threadIdx.x + 1] = 1.0f; }

__global__ void unaligned_vector(const float* from, float* to) {
  to[threadIdx.x] = reinterpret_cast<const float4*>(from + 1)[threadIdx.x % 4].y;
}

__global__ void too_much_static(float* to) {
  EDGECONV_SHARED(float, large, [12 << 10]);
#ifdef EDGECONV_SIMT  // nvcc refuses it
  EDGECONV_SHARED(float, one_more, );
  one_more = 1.0f;
#endif
  large[threadIdx.x] = 1.0f;
  to[threadIdx.x] = large[threadIdx.x];
}

struct Fault {
  const char* name;
  void (*writes)(float*);
  void (*copies)(const float*, float*);
};

const Fault kFaults[] = {
    {"no_barrier_before_read", no_barrier_before_read, nullptr},
    {"no_barrier_before_write", no_barrier_before_write, nullptr},
    {"no_syncwarp", no_syncwarp, nullptr},
    {"no_wait", nullptr, no_wait},
    {"waits_for_too_few", nullptr, waits_for_too_few},
    {"barrier_after_return", barrier_after_return, nullptr},
    {"barrier_after_first_returned", barrier_after_first_returned, nullptr},
    {"two_barriers", two_barriers, nullptr},
    {"barrier_and_shuffle", barrier_and_shuffle, nullptr},
    {"deadlock", deadlock, nullptr},
    {"partial_warp_mma", partial_warp_mma, nullptr},
    {"unaligned_ldmatrix", unaligned_ldmatrix, nullptr},
    {"unaligned_copy", nullptr, unaligned_copy},
    {"copy_to_global", nullptr, copy_to_global},
    {"lane_outside_mask", lane_outside_mask, nullptr},
    {"divergent_shuffles", divergent_shuffles, nullptr},
    {"shuffle_from_absent_lane", shuffle_from_absent_lane, nullptr},
    {"dynamic_overrun", dynamic_overrun, nullptr},
    {"global_overrun", global_overrun, nullptr},
    {"unaligned_vector", nullptr, unaligned_vector},
    {"too_much_static", too_much_static, nullptr},
};

__global__ void nothing() {}

}  // namespace

// -1: there is no such fault.
extern "C" int fault(const char* name, const float* from, float* to) {
  for (const Fault& entry : kFaults) {
    if (strcmp(entry.name, name) != 0) continue;
    const size_t bytes = kThreads * sizeof(float);
    if (entry.writes != nullptr) return EDGECONV_LAUNCH(entry.writes, dim3(2), dim3(kThreads), bytes, nullptr, to);
    return EDGECONV_LAUNCH(entry.copies, dim3(2), dim3(kThreads), bytes, nullptr, from, to);
  }
  return -1;
}

// The launch alone is of interest.
extern "C" int launch_nothing(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_z,
                              int shared_bytes, int allowed_bytes) {
  const cudaError_t allowed = allow_dynamic_shared(nothing, allowed_bytes);
  if (allowed != cudaSuccess) return allowed;
  return EDGECONV_LAUNCH(nothing, dim3(grid_x, grid_y, grid_z), dim3(block_x, 1, block_z), shared_bytes, nullptr);
}
