// Where the register tiles' outputs go: into y, or as partial sums of splits, which a second kernel adds up.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_OUTPUTS_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_OUTPUTS_H_

#include "common/cuda_distance.h"

namespace {

// Where outputs go, and how the sums of splits lie in between: as y does, without its channels' padding.
struct OutputPlaces {
  bool planar;
  int image, column, channel;  // strides; a row follows the one before
  int64_t split;               // of partial sums
};

inline OutputPlaces output_places(const DistanceShape& shape, bool planar, int pitch) {
  const int plane = shape.out_height * shape.out_width, channels = shape.groups * shape.filters;
  OutputPlaces places = {};
  places.planar = planar;
  places.image = planar ? channels * plane : plane * pitch;
  places.column = planar ? 1 : pitch;
  places.channel = planar ? plane : 1;
  places.split = static_cast<int64_t>(channels) * shape.positions;
  return places;
}

// What a block knows of a position of its tile.
struct alignas(16) TilePlace {
  int base;  // of its window's first tap in x: may be outside
  int y, x;  // of that tap; far outside if there is no such position
  int to;    // of its output
};

// A block's group, first filter of it, and first position.
struct TileOrigin {
  int group, filter, position;
};

// What becomes of sums.
template <class Finish, typename Partial>
struct TileOutput {
  DistanceShape shape;
  OutputPlaces places;
  bool split;  // sums go to `partial`, else outputs to y
  // Makes outputs: Value operator()(Partial, int channel, int position). Where Finish::kChecks, sums that are not
  // finite may be wrong, and Finish::exact(channel, position) is asked instead.
  Finish finish;
  typename Finish::Value* y;
  Partial* partial;
};

// Outputs of `sums` in shared memory, [row][position] with `pitch` words a row, by the whole block. Lanes follow each
// other in y. `filter_of` gives a row's filter, of the group's.
template <int rows, int positions, int pitch, int threads, class Finish, typename Partial, typename FilterOf>
__device__ __forceinline__ void store_sums(const TileOutput<Finish, Partial>& output, const TilePlace* places,
                                           const TileOrigin& origin, const Partial* sums, const FilterOf& filter_of) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < rows * positions; i += threads) {
    const int row = output.places.planar ? i / positions : i % rows;
    const int column = output.places.planar ? i % positions : i / rows;
    const int filter = filter_of(row), place = places[column].to;
    if (place < 0 || filter >= output.shape.filters) continue;
    Partial sum = sums[row * pitch + column];
    const int at = place + filter * output.places.channel;
    if (output.split) {
      output.partial[blockIdx.z * output.places.split + at] = sum;
      continue;
    }
    const int channel = origin.group * output.shape.filters + filter, position = origin.position + column;
    if constexpr (Finish::kChecks) {
      if (!is_finite(sum)) sum = output.finish.exact(channel, position);
    }
    output.y[at] = output.finish(sum, channel, position);
  }
}

// One output a thread, from the parts that splits have left.
template <class Arithmetic, class Finish>
__global__ void __launch_bounds__(256)
    sums_of_splits(const DistanceShape shape, const OutputPlaces y_places, const int splits,
                   const typename Arithmetic::Partial* partial, const Finish finish, typename Finish::Value* y) {
  const int channels = shape.groups * shape.filters, plane = shape.out_height * shape.out_width;
  const int count = channels * shape.positions;
  const int index = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (index >= count) return;
  const bool planar = y_places.planar;
  const int row = index / (planar ? plane : channels), rest = index - row * (planar ? plane : channels);
  const int channel = planar ? row % channels : rest;
  const int position = planar ? row / channels * plane + rest : row;
  typename Arithmetic::Partial sum = partial[index];
  for (int split = 1; split < splits; ++split) {
    sum = Arithmetic::combine(sum, partial[static_cast<int64_t>(split) * count + index]);
  }
  if constexpr (Finish::kChecks) {
    if (!is_finite(sum)) sum = finish.exact(channel, position);
  }
  const int at = position / plane * y_places.image + position % plane * y_places.column + channel * y_places.channel;
  y[at] = finish(sum, channel, position);
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_OUTPUTS_H_
