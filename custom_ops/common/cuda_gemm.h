// A tile of a matrix product as one block computes it: sums[row][column] += a[row][k] * b[column][k], both operands in
// stages of shared memory, filled ahead by cp.async.
//
// Rows of a stage are `chunks` pieces of 16 bytes, of consecutive k. Piece `chunk` of a row lies where swizzled() says,
// so that neither ldmatrix nor the plain form meets bank conflicts. The sums lie in registers as mma leaves them (see
// cuda_device.h), whatever computed them.
#ifndef EDGECONV_COMMON_CUDA_GEMM_H_
#define EDGECONV_COMMON_CUDA_GEMM_H_

#include "common/cuda_device.h"

namespace {

constexpr int kChunkBytes = 16;

// A block of `warp_rows` x `warp_columns` warps; `blocks` of them find registers on a multiprocessor.
template <int rows, int columns, int warp_rows, int warp_columns, int chunks, int stages, int blocks>
struct GemmTile {
  static constexpr int kRows = rows, kColumns = columns, kChunks = chunks, kStages = stages, kBlocks = blocks;
  static constexpr int kWarpColumns = warp_columns, kThreads = 32 * warp_rows * warp_columns;
  // By FMA the operands of more products are held at a time.
  static constexpr int kFmaBlocks = blocks > 2 ? blocks - 1 : 1;
  // mma tiles of a warp.
  static constexpr int kRowParts = rows / warp_rows / 16, kColumnParts = columns / warp_columns / 8;
  static constexpr int kStageBytes = (rows + columns) * chunks * kChunkBytes;
  static_assert(chunks == 4 || chunks == 8, "swizzled() knows two row lengths");
  static_assert(rows == warp_rows * kRowParts * 16 && columns == warp_columns * kColumnParts * 8, "whole mma tiles");
  static_assert(kColumnParts % 2 == 0, "ldmatrix loads two of them");
};

template <class Tile>
using Sums = float[Tile::kRowParts][Tile::kColumnParts][4];

// Where a thread's sums are within the tile: sums[i][j][e] is row(i, e / 2), column(j) + e % 2.
template <class Tile>
struct SumPlace {
  int first_row, first_column;

  __device__ SumPlace() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    first_row = warp / Tile::kWarpColumns * Tile::kRowParts * 16 + lane / 4;
    first_column = warp % Tile::kWarpColumns * Tile::kColumnParts * 8 + lane % 4 * 2;
  }
  __device__ int row(int part, int half) const { return first_row + part * 16 + half * 8; }
  __device__ int column(int part) const { return first_column + part * 8; }
};

// Bytes from the beginning of an operand's stage.
template <int chunks>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return (row * chunks + (chunk ^ (chunks == 8 ? row & 7 : row >> 1 & 3))) * kChunkBytes;
}

struct HalfMma {
  using Element = __half;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void round(uint32_t (&)[4]) {}
  static __device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(sums, a, b);
  }
};

// Elements of b are rounded before.
struct Tf32Mma {
  using Element = float;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void round(uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = round_to_tf32(__uint_as_float(a[i]));
  }
  static __device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k8_tf32(sums, a, b);
  }
};

struct FloatFma {
  using Element = float;
  static constexpr bool kTensorCores = false;
};

// The elements of a chunk.
__device__ __forceinline__ void unpack(uint4 chunk, float (&to)[4]) {
  to[0] = __uint_as_float(chunk.x);
  to[1] = __uint_as_float(chunk.y);
  to[2] = __uint_as_float(chunk.z);
  to[3] = __uint_as_float(chunk.w);
}

__device__ __forceinline__ void unpack(uint32_t word, float* to) {
  __half2_raw raw;
  raw.x = static_cast<unsigned short>(word & 0xffffu);
  raw.y = static_cast<unsigned short>(word >> 16);
  const float2 both = __half22float2(__half2(raw));
  to[0] = both.x;
  to[1] = both.y;
}

__device__ __forceinline__ void unpack(uint4 chunk, float (&to)[8]) {
  unpack(chunk.x, to);
  unpack(chunk.y, to + 2);
  unpack(chunk.z, to + 4);
  unpack(chunk.w, to + 6);
}

// One stage by tensor cores.
template <class Tile, class Math>
__device__ __forceinline__ void multiply_by_mma(const char* a, const char* b, Sums<Tile>& sums) {
  const int lane = threadIdx.x % 32;
  const SumPlace<Tile> place;
  // Of the first pieces. Others of a row are an exclusive or away, and rows 16 further are swizzled alike.
  const char* const a_rows = a + (place.first_row - lane / 4) * Tile::kChunks * kChunkBytes;
  const char* const b_rows = b + (place.first_column - lane % 4 * 2) * Tile::kChunks * kChunkBytes;
  const int a_piece = swizzled<Tile::kChunks>(lane % 16, lane / 16);
  const int b_piece = swizzled<Tile::kChunks>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll 2
  for (int chunk = 0; chunk < Tile::kChunks; chunk += 2) {
    constexpr int kRowBytes = Tile::kChunks * kChunkBytes;
    uint32_t a_part[Tile::kRowParts][4], b_part[Tile::kColumnParts][2];
#pragma unroll
    for (int i = 0; i < Tile::kRowParts; ++i) {
      ldmatrix_x4(a_part[i], a_rows + (a_piece ^ chunk * kChunkBytes) + i * 16 * kRowBytes);
      Math::round(a_part[i]);
    }
#pragma unroll
    for (int j = 0; j < Tile::kColumnParts; j += 2) {
      uint32_t both[4];
      ldmatrix_x4(both, b_rows + (b_piece ^ chunk * kChunkBytes) + j * 8 * kRowBytes);
      b_part[j][0] = both[0];
      b_part[j][1] = both[1];
      b_part[j + 1][0] = both[2];
      b_part[j + 1][1] = both[3];
    }
#pragma unroll
    for (int i = 0; i < Tile::kRowParts; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kColumnParts; ++j) Math::multiply(sums[i][j], a_part[i], b_part[j]);
    }
  }
}

// One stage by FMA.
template <class Tile>
__device__ __forceinline__ void multiply_by_fma(const char* a, const char* b, Sums<Tile>& sums) {
  const SumPlace<Tile> place;
#pragma unroll 1
  for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
    float w[Tile::kColumnParts][2][4];
#pragma unroll
    for (int j = 0; j < Tile::kColumnParts; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        unpack(*reinterpret_cast<const uint4*>(b + swizzled<Tile::kChunks>(place.column(j) + e, chunk)), w[j][e]);
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kRowParts; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x[4];
        unpack(*reinterpret_cast<const uint4*>(a + swizzled<Tile::kChunks>(place.row(i, half), chunk)), x);
#pragma unroll
        for (int j = 0; j < Tile::kColumnParts; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              sums[i][j][2 * half + e] = fmaf(x[k], w[j][e][k], sums[i][j][2 * half + e]);
            }
          }
        }
      }
    }
  }
}

// A thread's sums in element `e` of column part `j`, numbers that the compiler does not know: registers have no
// addresses.
template <class Tile>
__device__ __forceinline__ void take_part(const Sums<Tile>& sums, int j, int e, float (&part)[Tile::kRowParts]) {
#pragma unroll
  for (int i = 0; i < Tile::kRowParts; ++i) {
    part[i] = 0.0f;
#pragma unroll
    for (int at = 0; at < 4 * Tile::kColumnParts; ++at) part[i] = at == 4 * j + e ? sums[i][at / 4][at % 4] : part[i];
  }
}

template <class Tile>
__device__ __forceinline__ void put_part(const float (&part)[Tile::kRowParts], int j, int e, Sums<Tile>& sums) {
#pragma unroll
  for (int i = 0; i < Tile::kRowParts; ++i) {
#pragma unroll
    for (int at = 0; at < 4 * Tile::kColumnParts; ++at) {
      sums[i][at / 4][at % 4] = at == 4 * j + e ? part[i] : sums[i][at / 4][at % 4];
    }
  }
}

// Four elements.
__device__ __forceinline__ void load_four(const float* from, float (&to)[4]) {
  unpack(*reinterpret_cast<const uint4*>(from), to);
}

__device__ __forceinline__ void load_four(const __half* from, float (&to)[4]) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
  unpack(words.x, to);
  unpack(words.y, to + 2);
}

// The rare form of one stage: sums[row][column] += (a[row][k] - b[column][k])^2. A few sums after the other, so that it
// asks for no more registers than the other forms.
template <class Tile, typename Element>
__device__ __forceinline__ void add_squared_differences(const char* a, const char* b, Sums<Tile>& sums) {
  constexpr int kPieces = kChunkBytes / static_cast<int>(sizeof(Element)) / 4;  // of four elements, in a chunk
  const SumPlace<Tile> place;
  const auto load = [](const char* operand, int row, int piece, float (&to)[4]) {
    const char* const chunk = operand + swizzled<Tile::kChunks>(row, piece / kPieces);
    load_four(reinterpret_cast<const Element*>(chunk) + piece % kPieces * 4, to);
  };
#pragma unroll 1
  for (int pass = 0; pass < 4 * Tile::kColumnParts; ++pass) {
    const int j = pass / 4, e = pass % 4;
    float part[Tile::kRowParts];
    take_part<Tile>(sums, j, e, part);
#pragma unroll 1
    for (int piece = 0; piece < Tile::kChunks * kPieces; ++piece) {
      float w[4];
      load(b, place.column(j) + e % 2, piece, w);
#pragma unroll
      for (int i = 0; i < Tile::kRowParts; ++i) {
        float x[4];
        load(a, place.row(i, e / 2), piece, x);
#pragma unroll
        for (int k = 0; k < 4; ++k) part[i] = fmaf(x[k] - w[k], x[k] - w[k], part[i]);
      }
    }
    put_part<Tile>(part, j, e, sums);
  }
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_GEMM_H_
