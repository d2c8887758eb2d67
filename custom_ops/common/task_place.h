// Which part of the output a task computes.
#ifndef EDGECONV_COMMON_TASK_PLACE_H_
#define EDGECONV_COMMON_TASK_PLACE_H_

#include "common/patch_strips.h"

namespace {

struct TaskPlace {
  PositionBlock block;
  int64_t item;                         // of the batch
  int64_t group, last_group;            // groups [group, last_group)
  int64_t first_channel, last_channel;  // within the group
};

// Of task `index` of the tiling, with `group_chunk` groups a task. Blocks of positions vary fastest: a thread that runs
// tasks in order keeps its channels' weights in the cache.
inline TaskPlace task_place(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, int64_t group_chunk,
                            int64_t index) {
  const auto smaller = [](int64_t a, int64_t b) { return a < b ? a : b; };
  TaskPlace place = {};
  place.block.column = index % tiling.column_blocks * tiling.block_columns;
  place.block.columns = smaller(tiling.block_columns, shape.out_width - place.block.column);
  index /= tiling.column_blocks;
  place.block.row = index % tiling.row_blocks * tiling.block_rows;
  place.block.rows = smaller(tiling.block_rows, shape.out_height - place.block.row);
  index /= tiling.row_blocks;
  place.first_channel = index % tiling.chunks * tiling.channel_chunk;
  place.last_channel = smaller(tiling.group_channels, place.first_channel + tiling.channel_chunk);
  index /= tiling.chunks;
  const int64_t group_chunks = (shape.group + group_chunk - 1) / group_chunk;
  place.group = index % group_chunks * group_chunk;
  place.last_group = smaller(shape.group, place.group + group_chunk);
  place.item = index / group_chunks;
  return place;
}

}  // namespace

#endif  // EDGECONV_COMMON_TASK_PLACE_H_
