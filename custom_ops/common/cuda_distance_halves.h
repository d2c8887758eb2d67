// Sums of |x - w| over halves, on plain and tensor cores together: packed halves subtract, and add the magnitudes of
// two differences; tensor cores add up these in float32, as products with one. 1.6 instructions for two taps instead
// of 4.
//
//   a lane's registers of mma_m16n8k16_f16's A:  rows group, group + 8: filters i, i + 1 at position j of its group
//   B:                                           ones in column j % 8, zeros elsewhere
//   so that sums[row][j % 8] += the sixteen magnitudes that the four lanes of a group have of it
//
// The lanes of a group share its outputs and halve k twice: lane m takes words 4 m to 4 m + 3 of a stage of sixteen.
// Magnitudes of 2^15 and more may overflow in a sum of two, and zero times infinity is NaN for the row's other columns:
// outputs that are not finite are made anew (Finish::exact).
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_HALVES_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_HALVES_H_

#include "common/cuda_distance_tile.h"

namespace {

constexpr int kHalvesDepth = 16;  // words of a stage
constexpr int kHalvesStages = 3;

// A warp's groups of lanes are 2 x 4, each with 8 filters x thread_positions.
template <int warp_rows, int warp_columns, int thread_positions>
struct HalvesTile {
  static constexpr int kWarpColumns = warp_columns, kThreadPositions = thread_positions;
  static constexpr int kWarpFilters = 16, kWarpPositions = 4 * thread_positions;
  static constexpr int kFilters = warp_rows * kWarpFilters, kPositions = warp_columns * kWarpPositions;
  static constexpr int kThreads = warp_rows * warp_columns * 32;
  static constexpr int kBlocks = 512 / kThreads;
};

// As load_patches of cuda_distance_tile.h; [position][k]. Units are of one or four words.
template <class Block, int unit>
__device__ __forceinline__ void load_half_patches(const TileInput& input, const TilePlace* places, int group, int first,
                                                  uint32_t* to) {
  constexpr int kUnits = kHalvesDepth / unit, kStep = Block::kThreads / kUnits;
  const int column = static_cast<int>(threadIdx.x) % kUnits, row = static_cast<int>(threadIdx.x) / kUnits;
  const TapWord tap = input.taps[first / unit + column];
  const int offset =
      group * input.strides.group + tap.channel + tap.y * input.strides.row + tap.x * input.strides.column;
#pragma unroll 4
  for (int i = 0; i < Block::kPositions; i += kStep) {
    const int position = i + row;
    if (Block::kPositions % kStep != 0 && position >= Block::kPositions) break;
    const TilePlace place = places[position];
    const bool inside = is_inside(input.shape, place.y + tap.y, place.x + tap.x);
    cp_async<4 * unit>(to + position * kHalvesDepth + column * unit, inside ? input.x + (place.base + offset) : input.x,
                       inside ? tap.bytes : 0);
  }
}

template <class Block>
__device__ __forceinline__ void load_half_filters(const TileInput& input, int group, int first_filter, int first,
                                                  uint32_t* to) {
  constexpr int kChunks = kHalvesDepth / 4, kStep = Block::kThreads / kChunks;
  const int column = static_cast<int>(threadIdx.x) % kChunks * 4, row = static_cast<int>(threadIdx.x) / kChunks;
  const int filters = divide_up(input.shape.filters, 4) * 4;
#pragma unroll
  for (int i = 0; i < Block::kFilters; i += kStep) {
    if (Block::kFilters % kStep != 0 && i + row >= Block::kFilters) break;
    const int filter = first_filter + i + row;
    const bool inside = filter < filters;
    const int64_t at = (static_cast<int64_t>(group) * filters + filter) * input.filter_pitch + first + column;
    cp_async<16>(to + (i + row) * kHalvesDepth + column, input.filters + (inside ? at : 0), inside ? 16 : 0);
  }
}

// |a - c| + |b - d| of two halves each.
__device__ __forceinline__ uint32_t two_differences(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const __half2 sum =
      __hadd2(__habs2(__hsub2(halves_of(a), halves_of(c))), __habs2(__hsub2(halves_of(b), halves_of(d))));
  uint32_t word;
  __builtin_memcpy(&word, static_cast<const void*>(&sum), sizeof(word));
  return word;
}

template <class Block>
__device__ __forceinline__ void add_half_stage(const uint32_t* filters, const uint32_t* patches, int lane,
                                               float (&sums)[Block::kThreadPositions / 8][4][4]) {
  constexpr uint32_t kOnes = 0x3c003c00u;
  const int group = lane / 4, member = lane % 4;
  uint4 w[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    w[i] = *reinterpret_cast<const uint4*>(filters + (i * 2 + group / 4) * kHalvesDepth + member * 4);
  }
#pragma unroll
  for (int j = 0; j < Block::kThreadPositions; ++j) {
    const uint4 x = *reinterpret_cast<const uint4*>(patches + (j * 4 + group % 4) * kHalvesDepth + member * 4);
    const uint32_t ones = group == j % 8 ? kOnes : 0;
    const uint32_t b[2] = {ones, ones};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 first = w[2 * i], second = w[2 * i + 1];
      const uint32_t a[4] = {two_differences(x.x, x.y, first.x, first.y), two_differences(x.x, x.y, second.x, second.y),
                             two_differences(x.z, x.w, first.z, first.w),
                             two_differences(x.z, x.w, second.z, second.w)};
      mma_m16n8k16_f16(sums[j / 8][i], a, b);
    }
  }
}

template <class Block, class Finish>
__global__ void __launch_bounds__(Block::kThreads, Block::kBlocks)
    half_manhattan_tile(const TileInput input, const TileOutput<Finish, float> output) {
  constexpr int kStageWords = kHalvesDepth * (Block::kFilters + Block::kPositions);
  EDGECONV_SHARED(uint32_t, stages, [kHalvesStages * kStageWords]);
  EDGECONV_SHARED(TilePlace, places, [Block::kPositions]);

  const TileOrigin origin = find_tile<Block>(input, output.places, places);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const int first_step = static_cast<int>(blockIdx.z) * input.split_steps;
  const int steps = min(input.split_steps, input.steps - first_step);
  const auto load = [&](int step) {
    if (step < steps) {
      uint32_t* const stage = stages + step % kHalvesStages * kStageWords;
      uint32_t* const patches = stage + kHalvesDepth * Block::kFilters;
      const int first = (first_step + step) * kHalvesDepth;
      load_half_filters<Block>(input, origin.group, origin.filter, first, stage);
      if (input.unit == 4) {
        load_half_patches<Block, 4>(input, places, origin.group, first, patches);
      } else {
        load_half_patches<Block, 1>(input, places, origin.group, first, patches);
      }
    }
    cp_async_commit();
  };
#pragma unroll 1
  for (int step = 0; step < kHalvesStages - 1; ++step) load(step);

  const int warp_row = warp / Block::kWarpColumns * Block::kWarpFilters;
  const int warp_column = warp % Block::kWarpColumns * Block::kWarpPositions;
  float sums[Block::kThreadPositions / 8][4][4] = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kHalvesStages - 2>();
    __syncthreads();
    load(step + kHalvesStages - 1);
    const uint32_t* const stage = stages + step % kHalvesStages * kStageWords;
    add_half_stage<Block>(stage + warp_row * kHalvesDepth, stage + (Block::kFilters + warp_column) * kHalvesDepth, lane,
                          sums);
  }
  cp_async_wait<0>();

  // Of a group of lanes, lane m has the positions 2 m and 2 m + 1 of each eight.
  constexpr int kPitch = Block::kPositions + 4;
  static_assert(Block::kFilters * kPitch <= kHalvesStages * kStageWords, "the stages hold the sums");
  float* const rows = reinterpret_cast<float*>(stages);
  const int lane_row = warp_row + lane / 16, lane_column = warp_column + lane % 4 * 8 + lane / 4 % 4;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < Block::kThreadPositions * 2; ++k) {
    const int row = lane_row + (k / 4 % 4 * 2 + k % 4 / 2) * 2;
    rows[row * kPitch + lane_column + k / 16 * 32 + k % 2 * 4] = sums[k / 16][k / 4 % 4][k % 4];
  }
  __syncthreads();
  store_sums<Block::kFilters, Block::kPositions, kPitch, Block::kThreads>(output, places, origin, rows,
                                                                          [&](int row) { return origin.filter + row; });
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_HALVES_H_
