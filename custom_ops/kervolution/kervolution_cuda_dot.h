// What the files of the kernels of x.w share: their one argument, the table of tiles, and how they are launched.
//
//   kervolution_cuda_dot.cu          plan, pack, run
//   kervolution_cuda_dot_prepare.cu  activations with channels together; their squares, summed over channels
//   kervolution_cuda_dot_pack.cu     filters
//   kervolution_cuda_dot_f16.cu      the product by tensor cores, in float16 (kervolution_cuda_dot_gemm.h),
//   kervolution_cuda_dot_tf32.cu     in TF32,
//   kervolution_cuda_dot_f32.cu      and by float32 FMA; and the sum of a product's splits
//   kervolution_cuda_dot_groups.cu   small groups, depthwise filters above all: without a product
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_H_

#include "common/cuda_conv.h"
#include "kervolution/kervolution_cuda.h"

// Rows of the table of tiles (EdgeconvKervolutionCudaPlan::tile), kDotTiles.
enum EdgeconvDotTile { EDGECONV_DOT_GROUPS = 0, EDGECONV_DOT_FIRST_GEMM = 1, EDGECONV_DOT_TILES = 5 };

// Of a tile of the product, for the choice among them.
struct EdgeconvDotTileSize {
  int32_t rows, columns, chunks, warps;
  int32_t blocks;        // that find registers on a multiprocessor
  int32_t shared_bytes;  // of one
  double efficiency;     // of its multiplications, where there are enough blocks
};

using GemmTile1 = GemmTile<128, 128, 2, 4, 8, 3, 2>;
using GemmTile2 = GemmTile<128, 64, 2, 2, 8, 3, 3>;
using GemmTile3 = GemmTile<64, 64, 2, 2, 8, 3, 4>;
using GemmTile4 = GemmTile<64, 32, 2, 2, 8, 4, 4>;

// `efficiency` is an estimate.
template <class Tile>
constexpr EdgeconvDotTileSize describe_tile(double efficiency) {
  return {Tile::kRows,   Tile::kColumns,
          Tile::kChunks, Tile::kThreads / 32,
          Tile::kBlocks, Tile::kStages * Tile::kStageBytes + Tile::kRows * static_cast<int>(sizeof(float)),
          efficiency};
}

inline constexpr EdgeconvDotTileSize kDotTiles[EDGECONV_DOT_TILES] = {
    {},
    describe_tile<GemmTile1>(1.0),
    describe_tile<GemmTile2>(0.9),
    describe_tile<GemmTile3>(0.75),
    describe_tile<GemmTile4>(0.5),
};

// What packing finds out about the filters, on the device.
struct EdgeconvDotFilterFacts {
  int32_t ordinary;     // no magnitude from 2^60 on, no NaN
  int32_t have_offset;  // ordinary, and their mean is far larger than their spread
};

// Where things are in packed filters, in bytes.
struct EdgeconvDotPacked {
  int64_t sums;        // of squares, one float a filter
  int64_t facts;       // EdgeconvDotFilterFacts
  int64_t statistics;  // per filter, while packing
  int64_t bytes;
};

// A call, for device code. With NHWC layouts a product's columns beyond the filters are written as zeros up to y_pitch.
struct EdgeconvDotProblem {
  EdgeconvConvPatches patches;  // of what the product reads: x itself, or what prepare made of it
  EdgeconvConvFilters filters;
  int32_t kernel;  // an EdgeconvKernel
  int32_t channels_last;
  int64_t degree;
  int32_t groups, row_tiles, column_tiles, splits;
  const float* filter_sums;  // |w|^2
  const EdgeconvDotFilterFacts* facts;
  float* pixel_sums;  // |x|^2 of each pixel, [group][pixel]
  float* partials;    // [split][group][position][partial_pitch], where splits > 1
  int32_t partial_pitch;
  int32_t y_pitch;
  EdgeconvChannelValues balance, scale;
  const void* bias;
  void* y;
};

// How x becomes what the product reads.
struct EdgeconvDotPreparation {
  const void* x;
  void* to;  // [image][row][column][group][pixel_chunks / groups]
  int32_t element_bytes, channels_last;
  int32_t images, groups, group_channels;
  int32_t in_height, in_width, in_pitch;
  int32_t out_width;  // columns of `to`: those of x, or one an output column, where the taps of a row are unrolled
  int32_t taps;       // of a row that are unrolled into channels, else 1
  int32_t stride, pad, dilation;  // horizontal, of unrolled taps
  int32_t group_chunks;
};

// Small groups: x and y as they are.
struct EdgeconvDotGroupsProblem {
  int32_t images, channels, filters, group_channels, group_filters;
  int32_t height, width, out_height, out_width;
  int32_t kernel_height, kernel_width, stride_height, stride_width;
  int32_t pad_top, pad_left, dilation_height, dilation_width;
  int32_t kernel, channels_last;
  int64_t degree;
  int32_t x_pitch, y_pitch;
  const void* x;
  const float* packed;  // [tap][filter], taps as (channel, kernel row, kernel column)
  const EdgeconvDotFilterFacts* facts;
  EdgeconvChannelValues balance, scale;
  const void* bias;
  void* y;
};

extern "C" {

cudaError_t edgeconv_dot_gemm_f16(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream);
cudaError_t edgeconv_dot_gemm_tf32(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream);
cudaError_t edgeconv_dot_gemm_f32(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream);
// What the kernels with splits have left open.
cudaError_t edgeconv_dot_finish(const EdgeconvDotProblem& problem, int element_type, cudaStream_t stream);
cudaError_t edgeconv_dot_groups(const EdgeconvDotGroupsProblem& problem, int element_type, cudaStream_t stream);
cudaError_t edgeconv_dot_prepare(const EdgeconvDotPreparation& preparation, cudaStream_t stream);
cudaError_t edgeconv_dot_pixel_sums(const EdgeconvDotProblem& problem, int element_type, bool tf32,
                                    cudaStream_t stream);
// Filters as rows of k (unrolled taps: k runs over columns, then channels), or for small groups as [tap][filter].
struct EdgeconvDotPacking {
  int64_t filters, group_channels;
  int32_t kernel_height, kernel_width;
  int32_t small_groups, unrolled;
  int64_t row_chunks;  // of a filter
  int32_t element_type, tf32;
  EdgeconvDotPacked places;
};
cudaError_t edgeconv_dot_pack(const EdgeconvDotPacking& packing, const void* w, void* packed, cudaStream_t stream);

}  // extern "C"

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_H_
