#include "common/bf16x3_packing.h"

#include <algorithm>

#include "common/float16.h"
#include "common/winograd_packing.h"

namespace {

constexpr int64_t kMostStride = 16;   // split rows hold every column, whatever the stride
constexpr int64_t kMostReach = 1024;  // columns from the first to the last horizontal tap
constexpr int64_t kBestSteps = 12;    // of a block: its strips for two tiles of positions stay in L1
constexpr int64_t kBlockPositions = 384;
constexpr int64_t kStripFloats = 98304;
static_assert(kBf16x3MostSets >= kMostStride, "one set a phase");

// Processor cycles, roughly: only their relations count.
constexpr double kStepCycles = 48.0;         // three products of two tiles
constexpr double kAlone = 1.5;               // … by a tile that has no second one, and waits for itself
constexpr double kSumCycles = 32.0;          // loading and storing the sums of a tile
constexpr double kStripCycles = 5.0;         // filling a vector of both parts of a strip
constexpr double kFarWeights = 64.0;         // reading the filters of a step from beyond the L2 cache
constexpr int64_t kCachedWeights = 1 << 18;  // floats
constexpr double kFloat32Products = 28.0;    // a cycle, by the kernels of AVX-512
constexpr double kWinogradProducts = 50.0;   // … where they use Winograd's algorithm

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t channel_tiles(const EdgeconvConvShape& shape) {
  return edgeconv_bf16x3_tiles(shape.out_channels / shape.group);
}

// Of `tiles` tiles, two of which at a time share what is loaded.
double tile_cycles(int64_t tiles) { return (double(tiles / 2 * 2) + (tiles % 2 ? kAlone : 0.0)) * kStepCycles; }

// Rows of all strips of one pair for a block of `rows` rows of output positions.
int64_t strip_rows(const EdgeconvConvShape& shape, int64_t rows) {
  const EdgeconvBf16x3Sets sets = edgeconv_bf16x3_sets(&shape, rows);
  int64_t total = 0;
  for (int64_t set = 0; set < sets.count; ++set) total += edgeconv_bf16x3_set_rows(&sets, set, rows);
  return total;
}

// To nearest even, as the hardware does; not for NaN.
uint16_t round_to_bf16(float value) {
  const uint32_t bits = bits_from_float(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <typename Element>
void pack(const EdgeconvConvShape& shape, int64_t block_pairs, const Element* w, float* packed) {
  const int64_t channels = shape.in_channels / shape.group, filters = shape.out_channels / shape.group;
  const int64_t area = shape.kernel_height * shape.kernel_width, pairs = edgeconv_bf16x3_pairs(&shape);
  const auto weight = [&](int64_t group, int64_t filter, int64_t channel, int64_t row, int64_t column) {
    if (filter >= filters || channel >= channels || column >= shape.kernel_width) return 0.0f;
    const int64_t at = ((group * filters + filter) * channels + channel) * area + row * shape.kernel_width + column;
    return element_to_float(w[at]);
  };
  for (int64_t group = 0; group < shape.group; ++group) {
    for (int64_t first = 0; first < pairs; first += block_pairs) {
      const int64_t count = std::min(block_pairs, pairs - first);
      const int64_t row_steps = edgeconv_bf16x3_tiles(shape.kernel_width * count);
      for (int64_t filter = 0; filter < channel_tiles(shape) * kBf16x3Side; ++filter) {
        const size_t tile = edgeconv_bf16x3_offset(&shape, block_pairs, group, first, filter);
        uint16_t* to = reinterpret_cast<uint16_t*>(packed + tile) + filter % kBf16x3Side * 2 * kBf16x3Side;
        for (int64_t step = 0; step < shape.kernel_height * row_steps; ++step, to += 2 * kBf16x3StepFloats) {
          for (int64_t i = 0; i < 2 * kBf16x3Side; ++i) {
            const int64_t pair = step % row_steps * kBf16x3Side + i / 2;
            const float value =
                weight(group, filter, 2 * (first + pair % count) + i % 2, step / row_steps, pair / count);
            to[i] = round_to_bf16(value);
            const float high = float_from_bits(static_cast<uint32_t>(to[i]) << 16);
            to[kBf16x3StepFloats + i] = round_to_bf16(value - high);
          }
        }
      }
    }
  }
}

// Rows of output positions a block: among the numbers with nearly the least work, the one that divides best among
// threads. At most kBlockPositions.
int64_t choose_rows(const EdgeconvConvShape& shape, int64_t block_pairs, int64_t most) {
  constexpr double kNearlyLeast = 1.01;
  constexpr int64_t kThreads = 4;  // nominal: the cut must not depend on the machine
  const int64_t products = edgeconv_bf16x3_all_steps(&shape, block_pairs) * channel_tiles(shape);
  const int64_t row_vectors =
      shape.kernel_width * edgeconv_bf16x3_pairs(&shape) * edgeconv_bf16x3_tiles(shape.out_width);
  const double far = products * kBf16x3StepFloats > kCachedWeights ? kFarWeights : 0.0;
  // Cycles of a block of `rows` rows with all output channels.
  const auto cycles = [&](int64_t rows) {
    const double positions = tile_cycles(edgeconv_bf16x3_tiles(rows * shape.out_width));
    return double(products) * (positions + far) + double(strip_rows(shape, rows) * row_vectors) * kStripCycles;
  };
  double totals[kBlockPositions + 1], least = 0.0;
  for (int64_t rows = 1; rows <= most; ++rows) {
    const int64_t rest = shape.out_height % rows;
    totals[rows] = double(shape.out_height / rows) * cycles(rows) + (rest ? cycles(rest) : 0.0);
    least = rows == 1 ? totals[rows] : std::min(least, totals[rows]);
  }
  int64_t best = 0, best_span = 0;
  for (int64_t rows = most; rows >= 1; --rows) {
    if (totals[rows] > kNearlyLeast * least) continue;
    const int64_t span = divide_up(shape.batch * shape.group * divide_up(shape.out_height, rows), kThreads) * rows;
    if (best == 0 || span < best_span) {
      best = rows;
      best_span = span;
    }
  }
  return best;
}

}  // namespace

extern "C" {

int edgeconv_bf16x3_fits(const EdgeconvConvShape* shape) {
  if (shape->stride_height > kMostStride || shape->stride_width > kMostStride) return 0;
  if ((shape->kernel_width - 1) * shape->dilation_width > kMostReach) return 0;
  const int64_t block_pairs = edgeconv_bf16x3_block_pairs(shape);
  if (edgeconv_bf16x3_steps(shape, block_pairs) > kBf16x3MostSteps) return 0;
  // Cycles for a tile of positions.
  constexpr int64_t kRows = 4;  // of a usual block
  const double steps = double(edgeconv_bf16x3_all_steps(shape, block_pairs)),
               pairs = double(edgeconv_bf16x3_pairs(shape));
  const double filled = double(shape->kernel_width) * pairs * double(strip_rows(*shape, kRows)) / double(kRows);
  const double taps = double(shape->in_channels / shape->group * shape->kernel_height * shape->kernel_width);
  const double products = taps * double(shape->out_channels / shape->group * kBf16x3Side);
  return steps * tile_cycles(channel_tiles(*shape)) + filled * kStripCycles <
         products / (edgeconv_winograd_fits(shape) ? kWinogradProducts : kFloat32Products);
}

int64_t edgeconv_bf16x3_block_pairs(const EdgeconvConvShape* shape) {
  const int64_t pairs = edgeconv_bf16x3_pairs(shape), fewest = edgeconv_bf16x3_tiles(shape->kernel_width);
  int64_t best = 0;
  double least = 0.0;
  // As many pairs as fill the tiles of one vertical tap, whose number is what is chosen.
  for (int64_t tiles = fewest; tiles == fewest || tiles * shape->kernel_height <= kBestSteps; ++tiles) {
    const int64_t count = std::min(pairs, tiles * kBf16x3Side / shape->kernel_width);
    const double cycles =
        double(edgeconv_bf16x3_all_steps(shape, count)) * kStepCycles + double(divide_up(pairs, count)) * kSumCycles;
    if (best == 0 || cycles < least) {
      best = count;
      least = cycles;
    }
  }
  return best;
}

size_t edgeconv_bf16x3_floats(const EdgeconvConvShape* shape, int64_t block_pairs) {
  return edgeconv_bf16x3_offset(shape, block_pairs, shape->group, 0, 0);
}

void edgeconv_bf16x3_pack(const EdgeconvConvShape* shape, int64_t block_pairs, int element_type, const void* w,
                          float* packed) {
  if (element_type == EDGECONV_FLOAT16) {
    pack(*shape, block_pairs, static_cast<const uint16_t*>(w), packed);
  } else {
    pack(*shape, block_pairs, static_cast<const float*>(w), packed);
  }
}

void edgeconv_bf16x3_cut(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t block_pairs,
                         EdgeconvTiling* tiling) {
  const auto fits = [&](int64_t rows, int64_t columns) {
    return rows * columns <= kBlockPositions &&
           edgeconv_bf16x3_strip_floats(shape, block_pairs, rows, columns) <= kStripFloats;
  };
  int64_t most = std::min(shape->out_height, std::max<int64_t>(1, kBlockPositions / shape->out_width));
  while (most > 1 && !fits(most, shape->out_width)) --most;
  if (fits(most, shape->out_width)) {
    edgeconv_cut_blocks(shape, size, choose_rows(*shape, block_pairs, most), shape->out_width, kLeastChunk, tiling);
  } else {
    int64_t columns = kBlockPositions;
    while (columns > kBf16x3Side && !fits(1, columns)) columns -= kBf16x3Side;
    const int64_t pieces = divide_up(shape->out_width, columns);
    edgeconv_cut_blocks(shape, size, 1, edgeconv_bf16x3_tiles(divide_up(shape->out_width, pieces)) * kBf16x3Side,
                        kLeastChunk, tiling);
  }
}

int64_t edgeconv_bf16x3_strip_floats(const EdgeconvConvShape* shape, int64_t block_pairs, int64_t rows,
                                     int64_t columns) {
  const EdgeconvBf16x3Sets sets = edgeconv_bf16x3_sets(shape, rows);
  int64_t lengths = 0;
  for (int64_t set = 0; set < sets.count; ++set) {
    const int64_t length = edgeconv_bf16x3_set_rows(&sets, set, rows) * columns;
    if (length > 0) lengths += edgeconv_bf16x3_pitch(length);
  }
  // Of both parts; what the last tile may read beyond comes last.
  return 2 * lengths * edgeconv_bf16x3_tiles(shape->kernel_width * block_pairs) * kBf16x3Side + kBf16x3Side;
}

int64_t edgeconv_bf16x3_sum_floats(const EdgeconvConvShape* shape, int64_t block_pairs, const EdgeconvTiling* tiling) {
  constexpr int64_t kPairFloats = 4 * kBf16x3Side * kBf16x3Side;  // two by two tiles
  if (edgeconv_bf16x3_pairs(shape) <= block_pairs) return kPairFloats;
  return divide_up(tiling->block_rows * tiling->block_columns, 2 * kBf16x3Side) *
         divide_up(std::min(tiling->channel_chunk, tiling->group_channels), 2 * kBf16x3Side) * kPairFloats;
}

int64_t edgeconv_bf16x3_row_floats(const EdgeconvConvShape* shape, int64_t columns) {
  constexpr int64_t kBeyond = 2 * kBf16x3Side;  // what a vector of every second pair may read
  return (columns - 1) * shape->stride_width + (shape->kernel_width - 1) * shape->dilation_width + 1 + kBeyond;
}

}  // extern "C"
