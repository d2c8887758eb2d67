// How sums of products in pairs of bfloat16 numbers (bf16x3.h) are laid out: which filters they serve, the packed
// filters, the strips of the input, and the blocks of output positions.
//
// A float is taken as the sum of two bfloat16 numbers, high = round(x) and low = round(x - high), both to nearest even.
//
// A step multiplies sixteen pairs of values a position with sixteen output channels: a pair is what two neighbouring
// input channels have at one horizontal tap. The pairs of a block of input channels are numbered [horizontal tap]
// [pair of channels], for each vertical tap anew, and missing ones are zero: so 3 channels under 7 x 7 taps fill 14 of
// 16 rows of a tile, and 32 channels fill all.
#ifndef EDGECONV_COMMON_BF16X3_PACKING_H_
#define EDGECONV_COMMON_BF16X3_PACKING_H_

#include "common/tiling.h"

#ifdef __cplusplus
extern "C" {
#endif

static const int64_t kBf16x3Side = 16;             // output channels, positions and pairs of a tile
static const int64_t kBf16x3StepFloats = 16 * 32;  // of packed filters: 16 channels by 16 pairs, high and low parts
static const int64_t kBf16x3MostSteps = 64;        // of a block of input channels
static const int64_t kBf16x3MostSets = 16;         // of strips that share rows: one a phase of the stride

static inline int64_t edgeconv_bf16x3_tiles(int64_t count) { return (count + kBf16x3Side - 1) / kBf16x3Side; }

// Pairs of input channels of a group; the last may be half a pair.
static inline int64_t edgeconv_bf16x3_pairs(const EdgeconvConvShape* shape) {
  return (shape->in_channels / shape->group + 1) / 2;
}

// Steps of a block of `pairs` pairs of input channels.
static inline int64_t edgeconv_bf16x3_steps(const EdgeconvConvShape* shape, int64_t pairs) {
  return shape->kernel_height * edgeconv_bf16x3_tiles(shape->kernel_width * pairs);
}

// Of all blocks of `block_pairs` pairs, the last of which may be smaller.
static inline int64_t edgeconv_bf16x3_all_steps(const EdgeconvConvShape* shape, int64_t block_pairs) {
  const int64_t pairs = edgeconv_bf16x3_pairs(shape);
  return pairs / block_pairs * edgeconv_bf16x3_steps(shape, block_pairs) +
         edgeconv_bf16x3_steps(shape, pairs % block_pairs);
}

// Where the filters of the block of input channels that begins at pair `first_pair` begin for the tile of output
// channels that begins at `channel`, in floats: [group][block][tile of channels][step], and in a step the high parts
// [channel][pair][2], then the low parts.
static inline size_t edgeconv_bf16x3_offset(const EdgeconvConvShape* shape, int64_t block_pairs, int64_t group,
                                            int64_t first_pair, int64_t channel) {
  const int64_t pairs = edgeconv_bf16x3_pairs(shape) - first_pair;
  const int64_t tiles = edgeconv_bf16x3_tiles(shape->out_channels / shape->group);
  const int64_t before = first_pair / block_pairs * edgeconv_bf16x3_steps(shape, block_pairs);
  const int64_t steps = edgeconv_bf16x3_steps(shape, pairs < block_pairs ? pairs : block_pairs);
  return (size_t)((group * edgeconv_bf16x3_all_steps(shape, block_pairs) + before) * tiles +
                  channel / kBf16x3Side * steps) *
         kBf16x3StepFloats;
}

// Strips come in sets, one for the vertical taps that see the same rows of the input, moved by whole rows of the
// output; where that saves no rows, one for each vertical tap. The strips of a set lie at the same distance from each
// other (edgeconv_bf16x3_pitch), in the order of their pairs, whole tiles of them.
typedef struct EdgeconvBf16x3Sets {
  int shared;
  int64_t count;
  int64_t rows[16];  // of each set, where they are shared: kBf16x3MostSets
} EdgeconvBf16x3Sets;

// For blocks of `rows` rows of output positions.
static inline EdgeconvBf16x3Sets edgeconv_bf16x3_sets(const EdgeconvConvShape* shape, int64_t rows) {
  EdgeconvBf16x3Sets sets = {1, shape->stride_height, {0}};
  int64_t total = 0;
  for (int64_t tap = 0; tap < shape->kernel_height; ++tap) {
    const int64_t distance = tap * shape->dilation_height;
    int64_t* const seen = sets.rows + distance % shape->stride_height;
    const int64_t needed = rows + distance / shape->stride_height;
    if (needed > *seen) *seen = needed;
  }
  for (int64_t set = 0; set < sets.count; ++set) total += sets.rows[set];
  if (total >= shape->kernel_height * rows) {
    sets.shared = 0;
    sets.count = shape->kernel_height;
  }
  return sets;
}

static inline int64_t edgeconv_bf16x3_set_rows(const EdgeconvBf16x3Sets* sets, int64_t set, int64_t rows) {
  return sets->shared ? sets->rows[set] : rows;
}

// From one strip of `length` pairs to the next: an odd number of cache lines, so that the sixteen that a tile reads
// together lie in different sets of the caches.
static inline int64_t edgeconv_bf16x3_pitch(int64_t length) {
  return (edgeconv_bf16x3_tiles(length) | 1) * kBf16x3Side;
}

// Whether the filters' shape fills the tiles so well that, by a count of cycles, kernels in float32 would take longer.
int edgeconv_bf16x3_fits(const EdgeconvConvShape* shape);

// Pairs of input channels that are summed at a time.
int64_t edgeconv_bf16x3_block_pairs(const EdgeconvConvShape* shape);

// Floats of the packed filters of all groups.
size_t edgeconv_bf16x3_floats(const EdgeconvConvShape* shape, int64_t block_pairs);

// Packs w (M, C/group, kH, kW).
void edgeconv_bf16x3_pack(const EdgeconvConvShape* shape, int64_t block_pairs, int element_type, const void* w,
                          float* packed);

// Completes a `tiling` that edgeconv_filter_tiling has filled: blocks of whole rows, or of columns of one row.
void edgeconv_bf16x3_cut(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t block_pairs,
                         EdgeconvTiling* tiling);

// Scratch of one thread in floats: strips of a block of `rows` by `columns` positions, sums of the tiling's chunk of
// output channels at them, and split rows of the input.
int64_t edgeconv_bf16x3_strip_floats(const EdgeconvConvShape* shape, int64_t block_pairs, int64_t rows,
                                     int64_t columns);
int64_t edgeconv_bf16x3_sum_floats(const EdgeconvConvShape* shape, int64_t block_pairs, const EdgeconvTiling* tiling);
int64_t edgeconv_bf16x3_row_floats(const EdgeconvConvShape* shape, int64_t columns);

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_BF16X3_PACKING_H_
