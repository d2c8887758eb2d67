// Shuffles, votes, reductions, counting barriers, atomics, and where threads are.
#include "common/cuda_device.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

// One warp; a row of 32 results a function.
__global__ void warp_functions(const int* values, const float* reals, int* to) {
  const int lane = threadIdx.x, value = values[lane];
  int row = 0;
  const auto put = [&](int result) { to[row++ * 32 + lane] = result; };
  put(__shfl_sync(kAll, value, 5));
  put(__shfl_sync(kAll, value, 11, 8));
  put(__shfl_xor_sync(kAll, value, 9));
  put(__shfl_up_sync(kAll, value, 3));
  put(__shfl_up_sync(kAll, value, 3, 16));
  put(__shfl_down_sync(kAll, value, 7));
  put(__shfl_down_sync(kAll, value, 7, 8));
  put(static_cast<int>(__ballot_sync(kAll, value > 0)));
  put(__any_sync(kAll, value > 1000));
  put(__all_sync(kAll, value > -1000));
  put(__reduce_add_sync(kAll, value));
  put(__reduce_min_sync(kAll, value));
  put(static_cast<int>(__reduce_max_sync(kAll, static_cast<unsigned>(value))));
  put(__float_as_int(warp_sum(reals[lane])));
  // Each half of the warp on its own, the upper one twice: neither waits for the other.
  if (lane < 16) {
    put(__shfl_sync(0xffffu, value, 1));
  } else {
    put(__shfl_sync(0xffff0000u, __shfl_xor_sync(0xffff0000u, value, 1), 20));
  }
  put(__shfl_xor_sync(kAll, value, 1));
}

// A mask may name lanes that have returned: they do not count.
__global__ void vote_without_some(unsigned* to) {
  const int lane = threadIdx.x;
  if (lane % 4 == 1) return;
  to[lane] = __ballot_sync(kAll, lane < 20);
}

// Sums of `values` over all threads, in shared and in global memory; how many are positive, of the block.
__global__ void sums(const float* values, float* sum, int* counts, int count) {
  EDGECONV_SHARED(float, block_sum, );
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int i = block * threads + thread;
  if (thread == 0) block_sum = 0.0f;
  const int positive = __syncthreads_count(i < count && values[i] > 0);
  if (i < count) atomicAdd(&block_sum, values[i]);
  __syncthreads();
  if (thread == 0) {
    atomicAdd(sum, block_sum);
    counts[block] = positive;
  }
}

// In which order threads of a block, and blocks, come.
__global__ void order(int* turn, int* to) { to[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(turn, 1); }

}  // namespace

extern "C" int run_warp_functions(const int* values, const float* reals, int* to) {
  return EDGECONV_LAUNCH(warp_functions, dim3(1), dim3(32), 0, nullptr, values, reals, to);
}

extern "C" int run_vote_without_some(unsigned* to) {
  return EDGECONV_LAUNCH(vote_without_some, dim3(1), dim3(32), 0, nullptr, to);
}

extern "C" int run_sums(const float* values, float* sum, int* counts, int count) {
  return EDGECONV_LAUNCH(sums, dim3(3, 2, 2), dim3(5, 3, 3), 0, nullptr, values, sum, counts, count);
}

extern "C" int run_order(int* turn, int* to, int blocks, int threads) {
  return EDGECONV_LAUNCH(order, dim3(blocks), dim3(threads), 0, nullptr, turn, to);
}
