#include "common/tiling.h"

#include <algorithm>

#include "common/float16.h"

namespace {

constexpr int64_t kTapBlock = 256;        // strips of a tile and weights of a tile stay in the L1 and L2 caches
constexpr int64_t kBlockPositions = 384;  // with kTapBlock floats each at most, well below 1 MiB of strips
constexpr int64_t kMostPositions = 1024;  // where vertical taps share rows, so that as few floats do
constexpr int64_t kBlockFloats = 98304;   // of strips, and of sums: kBlockPositions of kTapBlock or kChannelChunk
constexpr int64_t kChannelChunk = 256;
constexpr int64_t kEnoughTasks = 4;  // nominal: the result may depend on the cut, and must not on the machine
constexpr int64_t kCallWork = int64_t{1} << 20;  // multiply-adds a call: tens of microseconds

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t strip_rows(const EdgeconvConvShape& shape, int64_t block_rows) {
  const int64_t shift = (shape.kernel_height - 1) * shape.dilation_height / shape.stride_height;
  return std::min(shape.stride_height, shape.kernel_height) * (block_rows + shift);
}

bool share_rows(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, int64_t block_rows) {
  return tiling.tap_block % (shape.kernel_height * shape.kernel_width) == 0 &&
         strip_rows(shape, block_rows) < shape.kernel_height * block_rows;
}

// Time of one tap at `positions`, in units of one vector for one output channel: whole vectors, and a rest that is a
// vector or, by the narrow tile, less (micro_kernel.h).
double tile_cost(const EdgeconvTiling& tiling, int64_t positions, int64_t lanes) {
  const int64_t rest = positions % lanes;
  const bool narrow = rest <= tiling.tile_rows / 2;
  return double(positions / lanes) + (rest == 0 ? 0.0 : narrow ? double(rest + 1) / double(tiling.tile_rows) : 1.0);
}

// Rows of output positions a block. Besides the tiles a block costs the filling of its strips, once for all channels,
// and reading the weights, which is cheap only while they stay in the cache from one block to the next. Among the
// numbers of rows with nearly the least work, the one that divides best among threads; where these are too few for
// kEnoughTasks, more work is accepted.
int64_t choose_block_rows(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, int64_t lanes,
                          int64_t element_floats) {
  constexpr double kStripVector = 4.0;
  constexpr double kNearlyLeast = 1.04, kWorthTasks = 1.1;
  constexpr int64_t kCachedWeights = 1 << 18;  // floats: 1 MiB
  const double read_weights = tiling.padded_channels * tiling.taps > kCachedWeights ? 1.0 : 0.1;
  const int64_t row_vectors = divide_up(shape.out_width, lanes);
  int64_t most = std::min(shape.out_height, std::max<int64_t>(1, kMostPositions / shape.out_width));
  const auto fits = [&](int64_t rows) {
    const int64_t taps = std::min(tiling.tap_block, tiling.taps);
    const int64_t sums = tiling.taps > tiling.tap_block ? std::min(tiling.padded_channels, kChannelChunk) : 0;
    return rows * shape.out_width * sums <= kBlockFloats && share_rows(shape, tiling, rows) &&
           taps / shape.kernel_height * strip_rows(shape, rows) * shape.out_width * element_floats <= kBlockFloats;
  };
  while (most > 1 && most * shape.out_width > kBlockPositions && !fits(most)) --most;
  const auto cost = [&](int64_t rows) {
    const bool shared = share_rows(shape, tiling, rows);
    const double filled = shared ? double(strip_rows(shape, rows)) / double(shape.kernel_height) : double(rows);
    return (tile_cost(tiling, rows * shape.out_width, lanes) + read_weights) * double(tiling.padded_channels) +
           filled * double(row_vectors) * kStripVector;
  };
  const auto total = [&](int64_t rows) {
    const int64_t rest = shape.out_height % rows;
    return double(shape.out_height / rows) * cost(rows) + (rest ? cost(rest) : 0.0);
  };
  const auto blocks = [&](int64_t rows) { return shape.batch * shape.group * divide_up(shape.out_height, rows); };
  double least = total(1);
  for (int64_t rows = 2; rows <= most; ++rows) least = std::min(least, total(rows));
  const auto best_within = [&](double factor) {
    int64_t best = 0, best_span = 0;
    for (int64_t rows = most; rows >= 1; --rows) {
      if (total(rows) > factor * least) continue;
      const int64_t span = divide_up(blocks(rows), kEnoughTasks) * rows;
      if (best == 0 || span < best_span) {
        best = rows;
        best_span = span;
      }
    }
    return best;
  };
  const int64_t best = best_within(kNearlyLeast);
  const int64_t chunks = divide_up(tiling.padded_channels, kLeastChunk);
  return blocks(best) * chunks < kEnoughTasks ? best_within(kWorthTasks) : best;
}

template <typename Element>
void pack(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, const Element* w, float* packed) {
  for (int64_t group = 0; group < shape.group; ++group) {
    const Element* filters = w + group * tiling.group_channels * tiling.taps;
    for (int64_t first = 0; first < tiling.taps; first += tiling.tap_block) {
      const int64_t last = std::min(tiling.taps, first + tiling.tap_block);
      for (int64_t channel = 0; channel < tiling.padded_channels; channel += tiling.tile_rows) {
        for (int64_t tap = first; tap < last; ++tap) {
          for (int64_t row = channel; row < channel + tiling.tile_rows; ++row) {
            *packed++ = row < tiling.group_channels ? element_to_float(filters[row * tiling.taps + tap]) : 0.0f;
          }
        }
      }
    }
  }
}

}  // namespace

extern "C" {

void edgeconv_filter_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, EdgeconvTiling* tiling) {
  edgeconv_element_filter_tiling(shape, size, 1, tiling);
}

void edgeconv_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, EdgeconvTiling* tiling) {
  edgeconv_element_tiling(shape, size, 1, tiling);
}

void edgeconv_element_filter_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size,
                                    int64_t element_floats, EdgeconvTiling* tiling) {
  *tiling = {};
  const int64_t most = kTapBlock / element_floats;
  const int64_t area = shape->kernel_height * shape->kernel_width;
  tiling->tile_rows = size->rows;
  tiling->tile_positions = size->positions;
  tiling->taps = shape->in_channels / shape->group * area;
  tiling->tap_block = area <= most ? most / area * area : most;
  tiling->group_channels = shape->out_channels / shape->group;
  tiling->padded_channels = divide_up(tiling->group_channels, size->rows) * size->rows;
}

void edgeconv_element_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t element_floats,
                             EdgeconvTiling* tiling) {
  edgeconv_element_filter_tiling(shape, size, element_floats, tiling);
  if (shape->out_width > kBlockPositions) {
    const int64_t pieces = divide_up(shape->out_width, kBlockPositions);
    const int64_t columns = divide_up(divide_up(shape->out_width, pieces), size->lanes) * size->lanes;
    edgeconv_cut_blocks(shape, size, 1, std::min(columns, kBlockPositions), kLeastChunk, tiling);
  } else {
    const int64_t rows = choose_block_rows(*shape, *tiling, size->lanes, element_floats);
    edgeconv_cut_blocks(shape, size, rows, shape->out_width, kLeastChunk, tiling);
  }
}

void edgeconv_cut_blocks(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t rows, int64_t columns,
                         int64_t least_chunk, EdgeconvTiling* tiling) {
  tiling->block_rows = rows;
  tiling->block_columns = columns;
  tiling->row_blocks = divide_up(shape->out_height, rows);
  tiling->column_blocks = divide_up(shape->out_width, columns);

  const int64_t blocks = shape->batch * shape->group * tiling->row_blocks * tiling->column_blocks;
  int64_t chunk = std::min(tiling->padded_channels, kChannelChunk);
  while (blocks * divide_up(tiling->padded_channels, chunk) < kEnoughTasks && chunk / 2 >= least_chunk) chunk /= 2;
  tiling->channel_chunk = divide_up(chunk, size->rows) * size->rows;
  tiling->chunks = divide_up(tiling->padded_channels, tiling->channel_chunk);
  tiling->tasks = blocks * tiling->chunks;

  const int64_t positions = rows * columns;
  tiling->shared_rows = share_rows(*shape, *tiling, rows);
  const int64_t taps = std::min(tiling->tap_block, tiling->taps);
  const int64_t filled = tiling->shared_rows ? taps / shape->kernel_height * strip_rows(*shape, rows) : taps * rows;
  tiling->strip_floats = filled * columns + tiling->tile_positions + size->lanes;
  // One block of taps: a tile's sums are used at once. Several: the sums of the whole task wait in between.
  const bool whole = tiling->taps > tiling->tap_block;
  tiling->sum_stride = whole ? divide_up(positions, size->lanes) * size->lanes : tiling->tile_positions + size->lanes;
  tiling->sum_floats = (whole ? tiling->channel_chunk : tiling->tile_rows) * tiling->sum_stride;
  const int64_t work = std::max<int64_t>(1, tiling->channel_chunk * positions * tiling->taps);
  tiling->tasks_per_call = std::max<int64_t>(1, kCallWork / work);
}

size_t edgeconv_packed_floats(const EdgeconvConvShape* shape, const EdgeconvTiling* tiling) {
  return static_cast<size_t>(shape->group) * tiling->padded_channels * tiling->taps;
}

size_t edgeconv_packed_offset(const EdgeconvTiling* tiling, int64_t group, int64_t tap, int64_t channel) {
  const int64_t taps = std::min(tiling->tap_block, tiling->taps - tap);
  return (static_cast<size_t>(group) * tiling->taps + tap) * tiling->padded_channels + channel * taps;
}

void edgeconv_pack_weights(const EdgeconvConvShape* shape, const EdgeconvTiling* tiling, int element_type,
                           const void* w, float* packed) {
  if (element_type == EDGECONV_FLOAT16) {
    pack(*shape, *tiling, static_cast<const uint16_t*>(w), packed);
  } else {
    pack(*shape, *tiling, static_cast<const float*>(w), packed);
  }
}

}  // extern "C"
