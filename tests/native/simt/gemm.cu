// Matrix products as kernels write them: tiles in shared memory; tensor cores behind a pipeline of cp.async. C = A * B,
// A is [m][k], B is [n][k] (so that k is contiguous in both).
#include "common/cuda_device.h"

namespace {

// A thread a sum. Shapes may be anything.
template <int kTile>
__global__ void __launch_bounds__(kTile* kTile) tiled(const float* a, const float* b, float* c, int m, int n, int k) {
  EDGECONV_SHARED(float, a_tile, [kTile][kTile]);
  EDGECONV_SHARED(float, b_tile, [kTile][kTile + 1]);
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * kTile + y, column = blockIdx.x * kTile + x;
  float sum = 0.0f;
  for (int first = 0; first < k; first += kTile) {
    a_tile[y][x] = row < m && first + x < k ? a[row * k + first + x] : 0.0f;
    const int b_row = static_cast<int>(blockIdx.x) * kTile + y;
    b_tile[y][x] = b_row < n && first + x < k ? b[b_row * k + first + x] : 0.0f;
    __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += a_tile[y][i] * b_tile[x][i];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

constexpr int kRows = 64, kColumns = 64, kDepth = 32, kStages = 3, kPitch = kDepth + 8, kThreads = 128;
constexpr int kStageElements = (kRows + kColumns) * kPitch;

// Rows beyond the matrix, and elements beyond k, become zeros. k is a multiple of 8.
__device__ void load_rows(const __half* from, int first_row, int rows, int first, int k, __half* to) {
  for (int i = threadIdx.x; i < kRows * kDepth / 8; i += kThreads) {
    const int row = i / (kDepth / 8), column = i % (kDepth / 8) * 8;
    const bool inside = first_row + row < rows && first + column < k;
    const __half* const source = inside ? from + int64_t(first_row + row) * k + first + column : from;
    cp_async<16>(to + row * kPitch + column, source, inside ? 16 : 0);
  }
}

__global__ void __launch_bounds__(kThreads) pipelined(const __half* a, const __half* b, float* c, int m, int n, int k) {
  EDGECONV_DYNAMIC_SHARED(__half, memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = blockIdx.y * kRows, first_column = blockIdx.x * kColumns;
  const int steps = (k + kDepth - 1) / kDepth;
  const auto load = [&](int step) {
    if (step < steps) {
      __half* const stage = memory + step % kStages * kStageElements;
      load_rows(a, first_row, m, step * kDepth, k, stage);
      load_rows(b, first_column, n, step * kDepth, k, stage + kRows * kPitch);
    }
    cp_async_commit();
  };
  for (int step = 0; step < kStages - 1; ++step) load(step);

  float sums[8][4] = {};
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    load(step + kStages - 1);
    const __half* const a_stage = memory + step % kStages * kStageElements;
    const __half* const b_stage = a_stage + kRows * kPitch;
    for (int depth = 0; depth < kDepth; depth += 16) {
      uint32_t a_part[4];
      ldmatrix_x4(a_part, a_stage + (warp * 16 + lane % 16) * kPitch + depth + lane / 16 * 8);
      for (int tile = 0; tile < 8; ++tile) {
        uint32_t b_part[2];
        ldmatrix_x2(b_part, b_stage + (tile * 8 + lane % 8) * kPitch + depth + lane / 8 % 2 * 8);
        mma_m16n8k16_f16(sums[tile], a_part, b_part);
      }
    }
  }
  cp_async_wait<0>();
  for (int tile = 0; tile < 8; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + warp * 16 + lane / 4 + i / 2 * 8;
      const int column = first_column + tile * 8 + lane % 4 * 2 + i % 2;
      if (row < m && column < n) c[int64_t(row) * n + column] = sums[tile][i];
    }
  }
}

int blocks(int count, int size) { return (count + size - 1) / size; }

}  // namespace

extern "C" int gemm_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
  return EDGECONV_LAUNCH(tiled<16>, dim3(blocks(n, 16), blocks(m, 16)), dim3(16, 16), 0, nullptr, a, b, c, m, n, k);
}

extern "C" int gemm_pipelined(const __half* a, const __half* b, float* c, int m, int n, int k) {
  const int bytes = kStages * kStageElements * static_cast<int>(sizeof(__half));
  const cudaError_t allowed = allow_dynamic_shared(pipelined, bytes);
  if (allowed != cudaSuccess) return allowed;
  return EDGECONV_LAUNCH(pipelined, dim3(blocks(n, kColumns), blocks(m, kRows)), dim3(kThreads), bytes, nullptr, a, b,
                         c, m, n, k);
}
