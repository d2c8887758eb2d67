// How the work of a convolution-like operator is cut: blocks of filter taps, blocks of output positions, chunks of
// output channels. A function of the shapes and the register tile alone, never of the number of threads, so that the
// result does not depend on them.
#ifndef EDGECONV_COMMON_TILING_H_
#define EDGECONV_COMMON_TILING_H_

#include "common/conv_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EdgeconvTileSize {
  int64_t lanes;      // floats a vector
  int64_t rows;       // output channels a register tile
  int64_t positions;  // output positions of the widest register tile
} EdgeconvTileSize;

typedef struct EdgeconvTiling {
  int64_t tile_rows, tile_positions;
  int64_t taps, tap_block;            // taps of one filter, and how many of them are summed at a time
  int64_t group_channels;             // output channels of a group
  int64_t padded_channels;            // … rounded up to whole tiles: the packed weights of a group
  int64_t channel_chunk, chunks;      // output channels of one task, and tasks that share a block of positions
  int64_t block_rows, block_columns;  // output positions of one task
  int64_t row_blocks, column_blocks;
  int shared_rows;                   // the vertical taps of a strip share its rows
  int64_t strip_floats, sum_floats;  // scratch of one thread
  int64_t sum_stride;
  int64_t tasks;           // batch * group * row_blocks * column_blocks * chunks
  int64_t tasks_per_call;  // tasks worth handing to a thread together
} EdgeconvTiling;

// The part that depends on the filters alone: tile sizes, taps, tap_block, group_channels, padded_channels.
void edgeconv_filter_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, EdgeconvTiling* tiling);

// All of it.
void edgeconv_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, EdgeconvTiling* tiling);

// The same where an element of strips and packed weights is as large as `element_floats` floats. A tap is then one
// element, which may hold several inputs: `shape` counts elements. What is called floats below is elements, too; sums
// stay as large as floats.
void edgeconv_element_filter_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size,
                                    int64_t element_floats, EdgeconvTiling* tiling);
void edgeconv_element_tiling(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t element_floats,
                             EdgeconvTiling* tiling);

// Where a block of positions is shared by several tasks, each prepares its inputs anew: the fewest output channels a
// task that pay for strips.
static const int64_t kLeastChunk = 128;

// Completes a `tiling` that edgeconv_filter_tiling has filled, with tasks of `rows` whole rows of output positions or
// `columns` columns of one row, and of `least_chunk` output channels or more.
void edgeconv_cut_blocks(const EdgeconvConvShape* shape, const EdgeconvTileSize* size, int64_t rows, int64_t columns,
                         int64_t least_chunk, EdgeconvTiling* tiling);

// Floats of the packed weights of all groups.
size_t edgeconv_packed_floats(const EdgeconvConvShape* shape, const EdgeconvTiling* tiling);

// Where a group's taps from `tap` on begin, for the tile of output channels that begins at `channel`. Within a block of
// taps the weights are [tile of channels][tap][channel in the tile], zero where the last tile has no channel.
size_t edgeconv_packed_offset(const EdgeconvTiling* tiling, int64_t group, int64_t tap, int64_t channel);

// Packs w (M, C/group, kH, kW) of `element_type` as floats in that order.
void edgeconv_pack_weights(const EdgeconvConvShape* shape, const EdgeconvTiling* tiling, int element_type,
                           const void* w, float* packed);

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_TILING_H_
