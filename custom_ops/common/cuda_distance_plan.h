// The table of register tiles, the choice among them, and launches.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_PLAN_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_PLAN_H_

#include "common/cuda_distance_halves.h"
#include "common/cuda_distance_words.h"
#include "common/cuda_launch.h"

namespace {

// Rows of the table: large tiles read less of shared memory for an output, small ones fill a GPU with few outputs.
using Tile0 = Tile<4, 2, 8, 8>;  // 128 filters x 128 positions
using Tile1 = Tile<2, 2, 8, 8>;  // 64 x 128
using Tile2 = Tile<2, 1, 8, 8>;  // 64 x 64
using Tile3 = Tile<1, 2, 8, 8>;  // 32 x 128
using Tile4 = Tile<1, 2, 4, 8>;  // 16 x 128
using Tile5 = Tile<2, 1, 8, 4>;  // 64 x 32

struct TileRow {
  int filters, positions, threads;
  double speed;  // of a full multiprocessor: the share of instructions that add to sums
};

template <class Block>
constexpr TileRow tile_row(double speed) {
  return {Block::kFilters, Block::kPositions, Block::kThreads, speed};
}

constexpr TileRow kTileTable[] = {tile_row<Tile0>(0.92), tile_row<Tile1>(0.88), tile_row<Tile2>(0.88),
                                  tile_row<Tile3>(0.80), tile_row<Tile4>(0.68), tile_row<Tile5>(0.78)};
constexpr int kTiles = sizeof(kTileTable) / sizeof(kTileTable[0]);

// Of sums over halves.
using HalvesTile0 = HalvesTile<4, 2, 16>;  // 64 filters x 128 positions
using HalvesTile1 = HalvesTile<4, 2, 8>;   // 64 x 64
using HalvesTile2 = HalvesTile<2, 2, 8>;   // 32 x 64
using HalvesTile3 = HalvesTile<1, 2, 16>;  // 16 x 128

constexpr TileRow kHalvesTable[] = {tile_row<HalvesTile0>(0.90), tile_row<HalvesTile1>(0.82),
                                    tile_row<HalvesTile2>(0.75), tile_row<HalvesTile3>(0.65)};
constexpr int kHalvesTiles = sizeof(kHalvesTable) / sizeof(kHalvesTable[0]);

struct TileChoice {
  int tile, splits;
};

constexpr int kLeastSplitSteps = 4;  // fewer would be waiting alone
constexpr int kMostSplits = 64;

// What the second launch costs a multiprocessor, in outputs times words; and a partial sum, written and read.
constexpr double kSplitLaunch = 2.5e5, kSplitSum = 24.0;
// Warps that a multiprocessor needs to hide what an instruction waits for.
constexpr double kBusyWarps = 8.0;

// The tile and the number of splits that keep the multiprocessors busy for the shortest time.
inline TileChoice choose_tile(const TileRow* table, int rows, const DistanceShape& shape, int steps, int step_words,
                              const EdgeconvCudaDevice& device) {
  const double outputs = static_cast<double>(shape.groups) * shape.filters * shape.positions;
  TileChoice best = {0, 1};
  double least = -1.0;
  for (int tile = 0; tile < rows; ++tile) {
    const TileRow& row = table[tile];
    const double blocks = static_cast<double>(shape.groups) * divide_up(shape.filters, row.filters) *
                          divide_up(shape.positions, row.positions);
    for (int wanted = 1; wanted <= kMostSplits; wanted += wanted < 4 ? 1 : wanted / 4) {
      const int split_steps = divide_up(steps, wanted), splits = divide_up(steps, split_steps);
      if (splits > 1 && split_steps < kLeastSplitSteps) break;
      const double each = divide_up(blocks * splits, static_cast<double>(device.multiprocessors));
      const double turns = static_cast<double>(static_cast<int64_t>(each));
      const double warps = turns * row.threads / 32.0;
      const double speed = row.speed * (warps < kBusyWarps ? warps / kBusyWarps : 1.0);
      const double pipeline = 2.0;  // steps that a block waits for its first words
      double cost = turns * row.filters * row.positions * (split_steps + pipeline) * step_words / speed;
      if (splits > 1) cost += kSplitLaunch + outputs * splits * kSplitSum / device.multiprocessors;
      if (least < 0.0 || cost < least) {
        least = cost;
        best = {tile, splits};
      }
    }
  }
  return best;
}

template <typename Launch>
cudaError_t with_tile(int tile, const Launch& launch) {
  switch (tile) {
    case 0: return launch(Tile0{});
    case 1: return launch(Tile1{});
    case 2: return launch(Tile2{});
    case 3: return launch(Tile3{});
    case 4: return launch(Tile4{});
    default: return launch(Tile5{});
  }
}

// Partial sums lie as y does, with pixels of M channels.
template <typename Partial, class Finish>
TileOutput<Finish, Partial> tile_output(const TileInput& input, const OutputPlaces& y_places, const Finish& finish,
                                        void* partial, void* y) {
  const DistanceShape& shape = input.shape;
  const bool split = input.splits > 1;
  return {shape,
          split ? output_places(shape, y_places.planar, shape.groups * shape.filters) : y_places,
          split,
          finish,
          static_cast<typename Finish::Value*>(y),
          static_cast<Partial*>(partial)};
}

template <class Arithmetic, class Finish>
cudaError_t launch_sums_of_splits(const DistanceShape& shape, const OutputPlaces& y_places, int splits,
                                  const void* partial, const Finish& finish, void* y, cudaStream_t stream) {
  return EDGECONV_LAUNCH(sums_of_splits<Arithmetic, Finish>,
                         dim3(divide_up(shape.groups * shape.filters * shape.positions, 256)), dim3(256), 0, stream,
                         shape, y_places, splits, static_cast<const typename Arithmetic::Partial*>(partial), finish,
                         static_cast<typename Finish::Value*>(y));
}

// Sums by the tile that a plan has chosen. `input` lacks steps and splits.
template <class Arithmetic, class Finish>
cudaError_t launch_tiles(int tile, TileInput input, const OutputPlaces& y_places, const Finish& finish, void* partial,
                         void* y, cudaStream_t stream) {
  const DistanceShape& shape = input.shape;
  using Partial = typename Arithmetic::Partial;
  const TileOutput<Finish, Partial> output = tile_output<Partial>(input, y_places, finish, partial, y);
  const cudaError_t error = with_tile(tile, [&](auto block) {
    using Block = decltype(block);
    const int blocks =
        shape.groups * divide_up(shape.filters, Block::kFilters) * divide_up(shape.positions, Block::kPositions);
    return EDGECONV_LAUNCH(distance_tile<Arithmetic, Block, Finish>, dim3(blocks, 1, input.splits),
                           dim3(Block::kThreads), 0, stream, input, output);
  });
  if (error != cudaSuccess || input.splits == 1) return error;
  return launch_sums_of_splits<Arithmetic>(shape, y_places, input.splits, partial, finish, y, stream);
}

// The same of halves.
template <class Finish>
cudaError_t launch_half_tiles(int tile, const TileInput& input, const OutputPlaces& y_places, const Finish& finish,
                              void* partial, void* y, cudaStream_t stream) {
  const DistanceShape& shape = input.shape;
  const TileOutput<Finish, float> output = tile_output<float>(input, y_places, finish, partial, y);
  const auto launch = [&](auto block) {
    using Block = decltype(block);
    const int blocks =
        shape.groups * divide_up(shape.filters, Block::kFilters) * divide_up(shape.positions, Block::kPositions);
    return EDGECONV_LAUNCH(half_manhattan_tile<Block, Finish>, dim3(blocks, 1, input.splits), dim3(Block::kThreads), 0,
                           stream, input, output);
  };
  const cudaError_t error = tile == 0   ? launch(HalvesTile0{})
                            : tile == 1 ? launch(HalvesTile1{})
                            : tile == 2 ? launch(HalvesTile2{})
                                        : launch(HalvesTile3{});
  if (error != cudaSuccess || input.splits == 1) return error;
  return launch_sums_of_splits<FloatManhattan>(shape, y_places, input.splits, partial, finish, y, stream);
}

// NHWC: the channels between M and the pitch, one a thread.
template <typename Value>
__global__ void __launch_bounds__(256) fill_channels(int positions, int channels, int pitch, Value value, Value* y) {
  const int missing = pitch - channels;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= static_cast<int64_t>(positions) * missing) return;
  y[index / missing * pitch + channels + index % missing] = value;
}

template <typename Value>
cudaError_t launch_filling(const DistanceShape& shape, int pitch, Value value, void* y, cudaStream_t stream) {
  const int channels = shape.groups * shape.filters;
  if (pitch == channels) return cudaSuccess;
  const int64_t count = static_cast<int64_t>(shape.positions) * (pitch - channels);
  return EDGECONV_LAUNCH(fill_channels<Value>, dim3(static_cast<unsigned>(divide_up<int64_t>(count, 256))), dim3(256),
                         0, stream, shape.positions, channels, pitch, value, static_cast<Value*>(y));
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_PLAN_H_
