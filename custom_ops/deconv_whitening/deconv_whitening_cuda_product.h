// Products on the GPU: A^T B of matrices that are stored [depth][rows] and [depth][columns], in tiles of a block. Most
// results are symmetric: of those the tiles on and above the diagonal are computed, and mirrored as they are stored.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PRODUCT_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PRODUCT_H_

#include "deconv_whitening/deconv_whitening_cuda_samples.h"

namespace {

// Of Scalars.values: what is known only on the device.
enum Value : int {
  kOne = -1,    // 1, which is not stored
  kResult = 0,  // of Z, to become the result
  kShare,       // few samples: of S^T d S, and of the diagonal
  kDiagonal,
  kStepValues,  // few samples: three for each step from the second on, see Eigenvalue
};

struct Factor {
  float value;
  int of;  // times this Value
};

// One product, and what becomes of each element: sum * factor + terms, + addend on the diagonal.
struct Product {
  const float* a;         // [depth][a_pitch]
  const float* b;         // [depth][b_pitch]
  float* to;              // [rows][to_pitch]; pitch of the terms, too
  float* mirror;          // [columns][to_pitch]: the transposed result, for a symmetric one `to` itself; or null
  const float* terms[2];  // or null; `to` itself may be one
  Factor factor, addend, term_factors[2];
  int rows, columns, depth, a_pitch, b_pitch, to_pitch;
  int symmetric;           // 1: rows = columns, and tiles below the diagonal are left out
  int64_t to_group_bytes;  // of `to`, mirror and terms
};

// Of one launch: blockIdx.y counts products times splits, blockIdx.z groups.
struct Products {
  Product products[3];
  // Splits of the depth, each with a result of its own, `split_floats` from the one before.
  int splits, split_depth;
  int64_t split_floats;
  const Scalars* scalars;
  int64_t group_bytes;
};

// A block has 256 threads, and each of them 8 x 8 sums. Where the tile has fewer elements, the block is cut into
// slices, which share out the depth and are added up in the end.
template <int kTile>
struct Tiling {
  static constexpr int kSide = kTile / 8;  // threads along a side of the tile
  static constexpr int kSliceThreads = kSide * kSide;
  static constexpr int kSlices = kThreads / kSliceThreads;
  static constexpr int kDepth = 2048 / kTile;        // of a stage: 8 KiB of each operand
  static constexpr int kStage = 2 * kDepth * kTile;  // floats
  static constexpr int kHalf = kTile / 2;            // rows of the tile that leave at a time
  static constexpr int kPitch = kTile + 1;           // of the sums on their way out
  static constexpr int kLeaving = kSlices * kHalf * kPitch;
  static constexpr int kFloats = kLeaving > 2 * kStage ? kLeaving : 2 * kStage;
  static_assert(kDepth % kSlices == 0);
};

// What a thread loads of one operand: rows of kTile columns, four of which are its own. Zeros beyond the last row and
// the pitch.
template <int kTile>
struct Loader {
  static constexpr int kVectors = kTile / 4, kRows = kThreads / kVectors;  // of all threads at a time
  static constexpr int kDepth = Tiling<kTile>::kDepth;

  const float* from;  // this thread's first row
  int step, rows;     // elements from one of its rows to the next; rows that are left, from its first one

  __device__ __forceinline__ Loader(const float* operand, int pitch, int first, int last, int first_column) {
    const int row = first + static_cast<int>(threadIdx.x) / kVectors;
    const int column = first_column + static_cast<int>(threadIdx.x) % kVectors * 4;
    from = operand + (static_cast<int64_t>(row) * pitch + column);
    step = kRows * pitch;
    rows = column < pitch ? last - row : 0;
  }

  // The next kDepth rows.
  __device__ __forceinline__ void load(float* stage, const float* anywhere) {
    float* const to = stage + 4 * static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < kDepth / kRows; ++i) {
      const bool there = rows > i * kRows;
      cp_async<16>(to + i * kRows * kTile, there ? from : anywhere, there ? 16 : 0);
      from += step;
    }
    rows -= kDepth;
  }
};

// The tile (row, column) of index `index` of the upper triangle, counted column by column.
__device__ __forceinline__ void find_tile(int index, int* row, int* column) {
  int found = static_cast<int>((sqrtf(8.0f * static_cast<float>(index) + 1.0f) - 1.0f) * 0.5f);
  while (found * (found + 1) / 2 > index) --found;
  while ((found + 1) * (found + 2) / 2 <= index) ++found;
  *column = found;
  *row = index - found * (found + 1) / 2;
}

__device__ __forceinline__ float factor_of(const Factor& factor, const Scalars* scalars) {
  return factor.of == kOne ? factor.value : factor.value * scalars->values[factor.of];
}

// The sums of this thread, over its slice of the depth. `memory` has two stages: one is summed while the other is
// loaded.
template <int kTile>
__device__ __forceinline__ void sum_tile(const Product& product, const float* a, const float* b, int first, int last,
                                         int first_row, int first_column, float* memory, float (&sums)[8][8]) {
  using Shape = Tiling<kTile>;
  constexpr int kSliceDepth = Shape::kDepth / Shape::kSlices;
  const int slice = static_cast<int>(threadIdx.x) / Shape::kSliceThreads;
  const int member = static_cast<int>(threadIdx.x) % Shape::kSliceThreads;
  const int own_row = member / Shape::kSide * 4, own_column = member % Shape::kSide * 4;
  Loader<kTile> a_loader(a, product.a_pitch, first, last, first_row);
  Loader<kTile> b_loader(b, product.b_pitch, first, last, first_column);
  const auto load = [&](float* stage) {
    a_loader.load(stage, a);
    b_loader.load(stage + Shape::kDepth * kTile, b);
    cp_async_commit();
  };
  if (first < last) load(memory);
  int current = 0;
  for (int at = first; at < last; at += Shape::kDepth) {
    cp_async_wait<0>();
    __syncthreads();  // all see this stage, and are done with the one before
    if (at + Shape::kDepth < last) load(memory + (1 - current) * Shape::kStage);
    const float* const stage = memory + current * Shape::kStage + slice * kSliceDepth * kTile;
#pragma unroll
    for (int k = 0; k < kSliceDepth; ++k) {
      const float* const left = stage + k * kTile + own_row;
      const float* const right = stage + (Shape::kDepth + k) * kTile + own_column;
      float x[8], y[8];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float4*>(x + 4 * half) = *reinterpret_cast<const float4*>(left + half * Shape::kHalf);
        *reinterpret_cast<float4*>(y + 4 * half) = *reinterpret_cast<const float4*>(right + half * Shape::kHalf);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
      }
    }
    current = 1 - current;
  }
}

template <int kTile>
__global__ void __launch_bounds__(kThreads, 2) multiply(Products products) {
  using Shape = Tiling<kTile>;
  EDGECONV_SHARED(float, memory, [Shape::kFloats]);
  const int split = static_cast<int>(blockIdx.y) % products.splits, group = blockIdx.z, thread = threadIdx.x;
  const Product& product = products.products[static_cast<int>(blockIdx.y) / products.splits];
  int row_tile, column_tile;
  if (product.symmetric) {
    find_tile(static_cast<int>(blockIdx.x), &row_tile, &column_tile);
  } else {
    const int column_tiles = (product.columns + kTile - 1) / kTile;
    row_tile = static_cast<int>(blockIdx.x) / column_tiles;
    column_tile = static_cast<int>(blockIdx.x) % column_tiles;
  }
  const int first_row = row_tile * kTile, first_column = column_tile * kTile;
  const int first = min(product.depth, split * products.split_depth);
  const int last = min(product.depth, first + products.split_depth);
  float sums[8][8] = {};
  sum_tile<kTile>(product, of_group(product.a, products.group_bytes, group),
                  of_group(product.b, products.group_bytes, group), first, last, first_row, first_column, memory, sums);

  const Scalars* const scalars = of_group(products.scalars, products.group_bytes, group);
  const float factor = factor_of(product.factor, scalars), addend = factor_of(product.addend, scalars);
  const int64_t shift = group * (product.to_group_bytes / 4) + split * products.split_floats;
  float* const to = product.to + shift;
  const bool diagonal = product.symmetric && row_tile == column_tile;
  const int slice = thread / Shape::kSliceThreads, member = thread % Shape::kSliceThreads;
  const int own_row = member / Shape::kSide * 4, own_column = member % Shape::kSide * 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    __syncthreads();
    float* const own = memory + (slice * Shape::kHalf + own_row) * Shape::kPitch + own_column;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) own[i * Shape::kPitch + j / 4 * Shape::kHalf + j % 4] = sums[4 * half + i][j];
    }
    __syncthreads();
    const int top = first_row + half * Shape::kHalf;
    for (int index = thread; index < Shape::kHalf * kTile; index += kThreads) {
      const int r = index / kTile, c = index % kTile, row = top + r, column = first_column + c;
      if (row >= product.rows || column >= product.columns || (diagonal && column < row)) continue;
      float* const sum = memory + r * Shape::kPitch + c;
      float value = *sum;
#pragma unroll
      for (int s = 1; s < Shape::kSlices; ++s) value += sum[s * Shape::kHalf * Shape::kPitch];
      value *= factor;
      const int64_t at = static_cast<int64_t>(row) * product.to_pitch + column;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (product.terms[i] != nullptr) {
          value = fmaf(product.terms[i][shift + at], factor_of(product.term_factors[i], scalars), value);
        }
      }
      if (row == column) value += addend;
      to[at] = value;
      *sum = value;
    }
    if (product.mirror == nullptr) continue;
    __syncthreads();
    float* const mirror = product.mirror + shift;
    for (int index = thread; index < Shape::kHalf * kTile; index += kThreads) {
      const int r = index % Shape::kHalf, c = index / Shape::kHalf, row = top + r, column = first_column + c;
      if (row >= product.rows || column >= product.columns || (diagonal && column <= row)) continue;
      mirror[static_cast<int64_t>(column) * product.to_pitch + row] = memory[r * Shape::kPitch + c];
    }
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PRODUCT_H_
