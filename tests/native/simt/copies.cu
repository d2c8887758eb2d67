// cp.async: sizes, zeros after the valid bytes, groups.
#include "common/cuda_device.h"

namespace {

constexpr int kThreads = 96;

// Thread i copies the first i % (kBytes + 1) of its kBytes.
template <int kBytes>
__global__ void copy(const char* from, char* to) {
  EDGECONV_DYNAMIC_SHARED(char, memory);
  const int thread = threadIdx.x;
  cp_async<kBytes>(memory + thread * kBytes, from + thread * kBytes, thread % (kBytes + 1));
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  // Another thread's bytes: they came with the barrier.
  const int other = kThreads - 1 - thread;
  for (int i = 0; i < kBytes; ++i) to[other * kBytes + i] = memory[other * kBytes + i];
}

// Three groups in flight; after each wait, writes what this thread's three places hold: [wait][place][thread].
__global__ void groups(const int* from, int* to) {
  EDGECONV_SHARED(int, memory, [3][kThreads]);
  const int thread = threadIdx.x;
  const auto write = [&](int wait) {
    for (int i = 0; i < 3; ++i) to[(wait * 3 + i) * kThreads + thread] = memory[i][thread];
  };
  for (int i = 0; i < 3; ++i) {
    cp_async<4>(&memory[i][thread], from + i * kThreads + thread);
    cp_async_commit();
  }
  cp_async_commit();  // an empty group counts, too
  cp_async_wait<3>();
  write(0);
  cp_async_wait<1>();
  write(1);
}

}  // namespace

extern "C" int copy_bytes(const char* from, char* to, int bytes) {
  const auto kernel = bytes == 4 ? copy<4> : bytes == 8 ? copy<8> : copy<16>;
  return EDGECONV_LAUNCH(kernel, dim3(1), dim3(kThreads), kThreads * bytes, nullptr, from, to);
}

extern "C" int copy_groups(const int* from, int* to) {
  return EDGECONV_LAUNCH(groups, dim3(1), dim3(kThreads), 0, nullptr, from, to);
}
