// Kernels of x.w in float32, by FMA; and the end of every product that was split.
#include "kervolution/kervolution_cuda_dot_gemm.h"

extern "C" cudaError_t edgeconv_dot_gemm_f32(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream) {
  return launch_math<FloatFma>(problem, tile, stream);
}

namespace {

using FinishTile = GemmTile<32, 32, 2, 2, 4, 1, 8>;

// Adds the splits in their order, so that results are the same in every run.
template <typename Element, bool squares>
__global__ void __launch_bounds__(FinishTile::kThreads) dot_finish(const EdgeconvDotProblem problem) {
  EDGECONV_SHARED(char, memory, [Staging<FinishTile, Element>::kBytes]);
  EDGECONV_SHARED(float, row_sums, [FinishTile::kRows]);
  const DotTilePlace tile = place_tile<FinishTile>(problem);
  const bool parts = squares && problem.facts->have_offset == 0;
  if (parts) sum_patches<FinishTile>(problem, tile, row_sums);
  Sums<FinishTile> sums = {};
  for (int split = 0; split < problem.splits; ++split) {
    const float* const from = partial_sums<FinishTile>(problem, tile, split);
    for_pairs<FinishTile>(problem, tile, sums, [&](int row, int column, float& first, float& second) {
      const float2 both = *reinterpret_cast<const float2*>(from + int64_t{row} * problem.partial_pitch + column);
      first += both.x;
      second += both.y;
    });
  }
  __syncthreads();
  finish_tile<FinishTile, Element, squares>(problem, tile, parts, row_sums, sums, memory);
}

int blocks(int count, int size) { return (count + size - 1) / size; }

}  // namespace

extern "C" cudaError_t edgeconv_dot_finish(const EdgeconvDotProblem& product, int element_type, cudaStream_t stream) {
  EdgeconvDotProblem problem = product;
  problem.row_tiles = blocks(problem.patches.positions, FinishTile::kRows);
  problem.column_tiles = blocks(problem.filters.filters, FinishTile::kColumns);
  const bool squares = takes_squares(problem.kernel), half = element_type == EDGECONV_FLOAT16;
  const auto kernel = half      ? squares ? dot_finish<__half, true> : dot_finish<__half, false>
                      : squares ? dot_finish<float, true>
                                : dot_finish<float, false>;
  const int count = problem.groups * problem.row_tiles * problem.column_tiles;
  return EDGECONV_LAUNCH(kernel, dim3(count), dim3(FinishTile::kThreads), 0, stream, problem);
}
