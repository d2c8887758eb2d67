// Sums or maxima of |x - w| as a register tile: like a matrix product, with filters as rows, output positions as
// columns and k running over words of taps, on plain (not tensor) cores.
//
// Kernel:    words go from global memory into stages of shared memory, [k][filter] and [k][position], by cp.async that
//            pads on the way; every thread keeps the sums of 8 x 8 outputs in registers and reads words by 128 bits.
// Splitting: where there are too few outputs for the GPU, blocks share k, and sums_of_splits adds up their parts in
//            order: the same bytes in every run.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_TILE_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_TILE_H_

#include "common/cuda_distance_outputs.h"

namespace {

constexpr int kTileDepth = 8;  // words of a stage
constexpr int kTileStages = 4;

// A block of warps; a warp's lanes are 4 x 8, each with kThreadFilters x kThreadPositions outputs.
template <int warp_rows, int warp_columns, int thread_filters, int thread_positions>
struct Tile {
  static constexpr int kWarpColumns = warp_columns;
  static constexpr int kThreadFilters = thread_filters, kThreadPositions = thread_positions;
  static constexpr int kFilters = warp_rows * 4 * thread_filters;
  static constexpr int kPositions = warp_columns * 8 * thread_positions;
  static constexpr int kThreads = warp_rows * warp_columns * 32;
  // Shared words from one k to the next: 4 more than a multiple of 32, so that copies of 8 words of k at 4 positions
  // meet all banks.
  static constexpr int kPositionPitch = kPositions + 4;
  // Blocks that a multiprocessor's registers hold: 16 warps of the largest, 12 of the others.
  static constexpr int kBlocks = kThreads > 128 ? 2 : 384 / kThreads;
};

// Everything about a call but the outputs.
struct TileInput {
  DistanceShape shape;
  bool planar;
  Strides strides;  // of x, in words
  const uint32_t* x;
  const uint32_t* outside;  // a word of zero-points
  const TapWord* taps;      // a multiple of kTileDepth
  const uint32_t* filters;  // [group][k][pitch]; of halves [group][filter][pitch]
  int filter_pitch;         // words, a multiple of 4
  int unit;                 // words of x that are copied together
  int steps;                // stages of k in all
  int split_steps;          // of one split
  int splits;
};

// Which tile a block has, group by group, position by position, filters first; fills `places`. Ends with a barrier.
template <class Block>
__device__ __forceinline__ TileOrigin find_tile(const TileInput& input, const OutputPlaces& output, TilePlace* places) {
  const DistanceShape& shape = input.shape;
  const int filter_blocks = divide_up(shape.filters, Block::kFilters);
  const int position_blocks = divide_up(shape.positions, Block::kPositions);
  const int block = static_cast<int>(blockIdx.x), group = block / filter_blocks / position_blocks;
  const TileOrigin origin = {group, block % filter_blocks * Block::kFilters,
                             block / filter_blocks % position_blocks * Block::kPositions};
  for (int i = static_cast<int>(threadIdx.x); i < Block::kPositions; i += Block::kThreads) {
    TilePlace place = {0, -(1 << 30), 0, -1};
    if (origin.position + i < shape.positions) {
      const Position found = position_of(shape, origin.position + i);
      place.base = found.image * input.strides.image + found.y * input.strides.row + found.x * input.strides.column;
      place.y = found.y, place.x = found.x;
      place.to = found.image * output.image + (found.row * shape.out_width + found.column) * output.column +
                 group * shape.filters * output.channel;
    }
    places[i] = place;
  }
  __syncthreads();
  return origin;
}

// threadIdx.x, read anew: what is made of it is not kept in registers, which sums need.
__device__ __forceinline__ int reread_thread() {
#if defined(EDGECONV_SIMT)
  return static_cast<int>(threadIdx.x);
#else
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#endif
}

// The copies of one stage of patches. Lanes follow each other in memory: 32 positions of a plane, or 8 words of 4
// pixels. Little is unrolled, because addresses would need registers.
template <class Arithmetic, class Block, bool planar>
__device__ __forceinline__ void load_patches(const TileInput& input, const TilePlace* places, int group, int first,
                                             uint32_t* to) {
  constexpr int kTogether = planar ? Block::kPositions : Block::kThreads / kTileDepth;  // positions of a round
  constexpr int kDepthStep = planar ? (Block::kThreads > kTogether ? Block::kThreads / kTogether : 1) : kTileDepth;
  constexpr int kPositionStep = planar ? (Block::kThreads < kTogether ? Block::kThreads : kTogether) : kTogether;
  const int thread = reread_thread();
  const int first_depth = planar ? thread / Block::kPositions : thread % kTileDepth;
  const int first_position = planar ? thread % Block::kPositions : thread / kTileDepth;
  const uint32_t* const x = input.x + group * input.strides.group;
#pragma unroll 1
  for (int depth = 0; depth < kTileDepth; depth += kDepthStep) {
    const TapWord tap = input.taps[first + depth + first_depth];
    const int offset = tap.channel * input.strides.channel + tap.y * input.strides.row + tap.x * input.strides.column;
#pragma unroll 2
    for (int position = 0; position < Block::kPositions; position += kPositionStep) {
      const TilePlace place = places[position + first_position];
      const bool inside = is_inside(input.shape, place.y + tap.y, place.x + tap.x);
      const uint32_t* const from = inside ? x + (place.base + offset) : input.outside;
      cp_async<4>(to + (depth + first_depth) * Block::kPositionPitch + position + first_position, from,
                  Arithmetic::kPadsWithBytes || inside ? tap.bytes : 0);
    }
  }
}

template <class Block>
__device__ __forceinline__ void load_filters(const TileInput& input, int group, int first_filter, int first,
                                             uint32_t* to) {
  constexpr int kChunks = Block::kFilters / 4;  // of 16 bytes in a row
  const uint32_t* const from =
      input.filters + static_cast<int64_t>(group) * input.steps * kTileDepth * input.filter_pitch;
  const int thread = reread_thread();
#pragma unroll
  for (int i = 0; i < kTileDepth * kChunks; i += Block::kThreads) {
    const int chunk = i + thread;
    if (kTileDepth * kChunks % Block::kThreads != 0 && chunk >= kTileDepth * kChunks) break;
    const int depth = chunk / kChunks, filter = chunk % kChunks * 4;
    const bool inside = first_filter + filter < input.filter_pitch;
    const int64_t at = static_cast<int64_t>(first + depth) * input.filter_pitch + first_filter + filter;
    cp_async<16>(to + depth * Block::kFilters + filter, inside ? from + at : from, inside ? 16 : 0);
  }
}

// Rows of filters follow each other in groups of four: 4 * lane row, then those of the other lanes.
template <int count, int lanes>
__device__ __forceinline__ void load_words(const uint32_t* from, int lane, uint32_t (&to)[count]) {
#pragma unroll
  for (int i = 0; i < count; i += 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(from + i * lanes + 4 * lane);
    to[i] = words.x, to[i + 1] = words.y, to[i + 2] = words.z, to[i + 3] = words.w;
  }
}

template <class Arithmetic, class Block>
__device__ __forceinline__ void add_stage(
    const uint32_t* filters, const uint32_t* patches, int lane_row, int lane_column,
    typename Arithmetic::Sum (&sums)[Block::kThreadFilters][Block::kThreadPositions]) {
#pragma unroll 4
  for (int depth = 0; depth < kTileDepth; ++depth) {
    uint32_t w[Block::kThreadFilters], x[Block::kThreadPositions];
    load_words<Block::kThreadFilters, 4>(filters + depth * Block::kFilters, lane_row, w);
    load_words<Block::kThreadPositions, 8>(patches + depth * Block::kPositionPitch, lane_column, x);
#pragma unroll
    for (int i = 0; i < Block::kThreadFilters; ++i) {
#pragma unroll
      for (int j = 0; j < Block::kThreadPositions; ++j) Arithmetic::add(&sums[i][j], x[j], w[i]);
    }
  }
}

// A block a tile: of filters, which follow each other, of positions and of groups in x, a split of k in z.
template <class Arithmetic, class Block, class Finish>
__global__ void __launch_bounds__(Block::kThreads, Block::kBlocks)
    distance_tile(const TileInput input, const TileOutput<Finish, typename Arithmetic::Partial> output) {
  using Partial = typename Arithmetic::Partial;
  constexpr int kStageWords = kTileDepth * (Block::kFilters + Block::kPositionPitch);
  constexpr int kRows = Block::kFilters / Block::kThreadFilters * 4;  // of sums that leave together
  constexpr int kRowWords = kRows * Block::kPositionPitch, kAllStages = kTileStages * kStageWords;
  EDGECONV_SHARED(uint32_t, stages, [kAllStages > kRowWords ? kAllStages : kRowWords]);
  EDGECONV_SHARED(TilePlace, places, [Block::kPositions]);
  EDGECONV_SHARED(TileOrigin, origin);  // so that no register keeps it during the loop

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  {
    const TileOrigin found = find_tile<Block>(input, output.places, places);
    if (thread == 0) origin = found;
  }
  __syncthreads();

  const int first_step = static_cast<int>(blockIdx.z) * input.split_steps;
  const int steps = min(input.split_steps, input.steps - first_step);
  const auto load = [&](int step) {
    if (step < steps) {
      uint32_t* const stage = stages + step % kTileStages * kStageWords;
      const int first = (first_step + step) * kTileDepth;
      load_filters<Block>(input, origin.group, origin.filter, first, stage);
      uint32_t* const patches = stage + kTileDepth * Block::kFilters;
      if (input.planar) {
        load_patches<Arithmetic, Block, true>(input, places, origin.group, first, patches);
      } else {
        load_patches<Arithmetic, Block, false>(input, places, origin.group, first, patches);
      }
    }
    cp_async_commit();
  };
#pragma unroll 1
  for (int step = 0; step < kTileStages - 1; ++step) load(step);

  const int warp_row = warp / Block::kWarpColumns, lane_row = lane / 8, lane_column = lane % 8;
  const int warp_column = warp % Block::kWarpColumns * 8 * Block::kThreadPositions;
  typename Arithmetic::Sum sums[Block::kThreadFilters][Block::kThreadPositions];
#pragma unroll
  for (int i = 0; i < Block::kThreadFilters; ++i) {
#pragma unroll
    for (int j = 0; j < Block::kThreadPositions; ++j) sums[i][j] = Arithmetic::zero();
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kTileStages - 2>();
    __syncthreads();
    load(step + kTileStages - 1);
    const uint32_t* const stage = stages + step % kTileStages * kStageWords;
    add_stage<Arithmetic, Block>(stage + warp_row * 4 * Block::kThreadFilters,
                                 stage + kTileDepth * Block::kFilters + warp_column, lane_row, lane_column, sums);
  }
  cp_async_wait<0>();

  // Sixteen filters of each row of warps at a time.
  Partial* const rows = reinterpret_cast<Partial*>(stages);
#pragma unroll
  for (int part = 0; part < Block::kThreadFilters; part += 4) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Partial* const row = rows + (warp_row * 16 + lane_row * 4 + i) * Block::kPositionPitch + warp_column;
#pragma unroll
      for (int j = 0; j < Block::kThreadPositions; ++j) {
        row[j / 4 * 32 + lane_column * 4 + j % 4] = Arithmetic::result(sums[part + i][j]);
      }
    }
    __syncthreads();
    const auto filter_of = [&](int row) {
      return origin.filter + row / 16 * 4 * Block::kThreadFilters + part * 4 + row % 16;
    };
    store_sums<kRows, Block::kPositions, Block::kPositionPitch, Block::kThreads>(output, places, origin, rows,
                                                                                 filter_of);
  }
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_TILE_H_
