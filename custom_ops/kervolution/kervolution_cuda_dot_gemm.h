// The kernels of x.w as a matrix product over patches: one kernel for each tile and arithmetic, once for functions of
// x.w and once for those of |x - w|^2.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_GEMM_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_GEMM_H_

#include "kervolution/kervolution_cuda_dot_epilogue.h"

namespace {

// Blocks that share patches follow each other, so that they find them in the cache.
template <class Tile>
__device__ __forceinline__ DotTilePlace place_tile(const EdgeconvDotProblem& problem) {
  const int row_block = blockIdx.x / problem.column_tiles, column_block = blockIdx.x % problem.column_tiles;
  return {row_block % problem.row_tiles * Tile::kRows, column_block * Tile::kColumns, row_block / problem.row_tiles};
}

template <class Tile>
__device__ __forceinline__ float* partial_sums(const EdgeconvDotProblem& problem, const DotTilePlace& tile, int split) {
  const int64_t line = (int64_t{split} * problem.groups + tile.group) * problem.patches.positions + tile.first_row;
  return problem.partials + line * problem.partial_pitch + tile.first_column;
}

// Calls function(row, column, sum, sum of the next column) for the thread's sums within the product.
template <class Tile, typename Function>
__device__ __forceinline__ void for_pairs(const EdgeconvDotProblem& problem, const DotTilePlace& tile, Sums<Tile>& sums,
                                          const Function& function) {
  const SumPlace<Tile> place;
#pragma unroll
  for (int i = 0; i < Tile::kRowParts; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = place.row(i, half);
      if (tile.first_row + row >= problem.patches.positions) continue;
#pragma unroll
      for (int j = 0; j < Tile::kColumnParts; ++j) {
        const int column = place.column(j);
        if (tile.first_column + column >= problem.partial_pitch) continue;
        function(row, column, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
      }
    }
  }
}

// Of shared memory: the stages, then the tile's results in their place; beside them |x|^2 of the rows.
template <class Tile, typename Element>
constexpr int kTileBytes =
    Tile::kStages * Tile::kStageBytes > Staging<Tile, Element>::kBytes ? Tile::kStages * Tile::kStageBytes
                                                                       : Staging<Tile, Element>::kBytes;

template <class Tile, class Math, bool squares>
__global__ void __launch_bounds__(Tile::kThreads, Math::kTensorCores ? Tile::kBlocks : Tile::kFmaBlocks)
    dot_gemm(const EdgeconvDotProblem problem) {
  EDGECONV_DYNAMIC_SHARED(char, memory);
  using Element = typename Math::Element;
  constexpr int kChunks = Tile::kChunks, kStages = Tile::kStages;
  const DotTilePlace tile = place_tile<Tile>(problem);
  const EdgeconvConvPatches& patches = problem.patches;
  const int all_chunks = patches.kernel_height * patches.kernel_width * patches.channel_chunks;
  const int all_steps = (all_chunks + kChunks - 1) / kChunks;
  const int first_step = static_cast<int>(int64_t{all_steps} * blockIdx.y / problem.splits);
  const int steps = static_cast<int>(int64_t{all_steps} * (blockIdx.y + 1) / problem.splits) - first_step;
  PatchLoader<Tile::kRows, kChunks, Tile::kThreads> patch_loader(patches, tile.first_row, tile.group,
                                                                 first_step * kChunks);
  FilterLoader<Tile::kColumns, kChunks, Tile::kThreads> filter_loader(problem.filters, tile.first_column, tile.group,
                                                                      first_step * kChunks);
  constexpr int kEnd = kStages * Tile::kStageBytes;
  int filled = 0, used = 0;  // stages, in bytes from the first
  const auto next = [](int stage) { return stage + Tile::kStageBytes == kEnd ? 0 : stage + Tile::kStageBytes; };
  const auto load = [&](int step) {
    if (step < steps) {
      patch_loader.load(patches, memory + filled);
      filter_loader.load(problem.filters, memory + filled + Tile::kRows * kChunks * kChunkBytes);
      filled = next(filled);
    }
    cp_async_commit();
  };
#pragma unroll 1
  for (int step = 0; step < kStages - 1; ++step) load(step);

  // Sums of squares of differences keep the digits that |x|^2 + |w|^2 - 2 x.w would lose.
  const bool differences = squares && problem.facts->have_offset != 0;
  float* const row_sums = reinterpret_cast<float*>(memory + kTileBytes<Tile, Element>);
  if (squares && !differences && problem.splits == 1) sum_patches<Tile>(problem, tile, row_sums);

  Sums<Tile> sums = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    load(step + kStages - 1);
    const char* const a = memory + used;
    const char* const b = a + Tile::kRows * kChunks * kChunkBytes;
    used = next(used);
    if (squares && differences) {
      add_squared_differences<Tile, Element>(a, b, sums);
    } else if constexpr (Math::kTensorCores) {
      multiply_by_mma<Tile, Math>(a, b, sums);
    } else {
      multiply_by_fma<Tile>(a, b, sums);
    }
  }
  cp_async_wait<0>();
  if (problem.splits > 1) {
    float* const to = partial_sums<Tile>(problem, tile, blockIdx.y);
    for_pairs<Tile>(problem, tile, sums, [&](int row, int column, float first, float second) {
      store_pair(to + int64_t{row} * problem.partial_pitch + column, first, second);
    });
    return;
  }
  __syncthreads();
  finish_tile<Tile, Element, squares>(problem, tile, !differences, row_sums, sums, memory);
}

template <class Tile, class Math, bool squares>
cudaError_t launch_gemm(const EdgeconvDotProblem& problem, cudaStream_t stream) {
  constexpr int kBytes =
      kTileBytes<Tile, typename Math::Element> + (squares ? Tile::kRows * static_cast<int>(sizeof(float)) : 0);
  const auto kernel = dot_gemm<Tile, Math, squares>;
  const cudaError_t allowed = allow_dynamic_shared(kernel, kBytes);
  if (allowed != cudaSuccess) return allowed;
  const int blocks = problem.groups * problem.row_tiles * problem.column_tiles;
  return EDGECONV_LAUNCH(kernel, dim3(blocks, problem.splits), dim3(Tile::kThreads), kBytes, stream, problem);
}

template <class Math, bool squares>
cudaError_t launch_tile(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream) {
  switch (tile) {
    case 1: return launch_gemm<GemmTile1, Math, squares>(problem, stream);
    case 2: return launch_gemm<GemmTile2, Math, squares>(problem, stream);
    case 3: return launch_gemm<GemmTile3, Math, squares>(problem, stream);
    case 4: return launch_gemm<GemmTile4, Math, squares>(problem, stream);
    default: return cudaErrorInvalidValue;
  }
}

constexpr bool takes_squares(int kernel) { return kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_EUCLIDEAN; }

template <class Math>
cudaError_t launch_math(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream) {
  return takes_squares(problem.kernel) ? launch_tile<Math, true>(problem, tile, stream)
                                       : launch_tile<Math, false>(problem, tile, stream);
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_GEMM_H_
