// The direct algorithm, for every shape: every tap of every patch.
//
// For each block of filter taps the strips of the input (patch_strips.h) are filled, then every tile of positions
// sweeps over the chunk's output channels: its strips stay in L1, the block's weights in L2. After the last block the
// epilogue turns the sums into outputs.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_DIRECT_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_DIRECT_H_

#include "common/micro_kernel.h"
#include "kervolution/kervolution_epilogue.h"

namespace {

// Outputs of one tile: channels [channel, channel + rows) of the group at positions [position, position + count).
// Not inlined: the compiler would keep its constants in registers, and store them away around each tile.
template <int kernel, Summed summed, typename Element>
__attribute__((noinline)) void finish_tile(const Task& task, const float* sums, int64_t channel, int64_t rows,
                                           int64_t position, int64_t count) {
  Element* y = output_of<Element>(task, channel) + position;
  const int64_t area = task.params->shape.out_height * task.params->shape.out_width;
  for (int64_t row = 0; row < rows; ++row, y += area, sums += task.plan->tiling.sum_stride) {
    const Channel values = load_channel(task, channel - task.first_channel + row);
    for (int64_t i = 0; i < count; i += Simd::kLanes) {
      finish_vector<kernel, summed>(Simd::load(sums + i), load_patch_sum<kernel, summed>(task, position + i), values,
                                    count - i, y + i);
    }
  }
}

// Packs the filters' taps [first, last) for channels [channel, channel + kRows) where the plan's packed filters are of
// another kind.
template <typename Element>
void pack_tile(const Task& task, int64_t channel, int64_t first, int64_t last, float* to) {
  const EdgeconvTiling& tiling = task.plan->tiling;
  const Element* filters =
      static_cast<const Element*>(task.arguments->w) + task.group * tiling.group_channels * tiling.taps;
  for (int64_t tap = first; tap < last; ++tap) {
    for (int64_t row = channel; row < channel + kRows; ++row, ++to) {
      *to = row < tiling.group_channels ? element_to_float(filters[row * tiling.taps + tap]) : 0.0f;
    }
  }
}

template <int kernel, template <typename> class Arithmetic, Summed summed, typename Element>
void run_direct_block(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvTiling& tiling = task.plan->tiling;
  const int64_t positions = task.block.rows * task.block.columns;
  const Element* x = group_input<Element>(task);
  float* const strips = task.scratch;
  int32_t* const offsets = reinterpret_cast<int32_t*>(task.scratch + task.plan->offsets);
  float* const packed_now = task.scratch + task.plan->weights;
  const bool whole = tiling.taps <= tiling.tap_block;
  constexpr int64_t kMostTaps = Arithmetic<Simd>::kMostTaps;
  gather_channels<kernel, Element>(task, task.first_channel, task.last_channel);
  for (int64_t first_tap = 0; first_tap < tiling.taps; first_tap += tiling.tap_block) {
    int64_t last_tap = first_tap + tiling.tap_block;
    if (last_tap > tiling.taps) last_tap = tiling.taps;
    const bool last = last_tap == tiling.taps;
    fill_strips(shape, tiling, task.block, x, first_tap, last_tap, strips, offsets);
    int64_t count = 0;
    for (int64_t position = 0; position < positions; position += count) {
      count = tile_count(positions - position);
      for (int64_t channel = task.first_channel; channel < task.last_channel; channel += kRows) {
        int64_t rows = tiling.group_channels - channel;
        if (rows > kRows) rows = kRows;
        float* sums = task.scratch + task.plan->sums;
        if (!whole) sums += (channel - task.first_channel) * tiling.sum_stride + position;
        const float* weights = packed_now;
        if (task.plan->packing == EDGECONV_DIRECT) {
          weights = task.arguments->packed + edgeconv_packed_offset(&tiling, task.group, first_tap, channel);
        } else {
          pack_tile<Element>(task, channel, first_tap, last_tap, packed_now);
        }
        for (int64_t tap = first_tap; tap < last_tap; tap += kMostTaps) {
          const int64_t taps = last_tap - tap < kMostTaps ? last_tap - tap : kMostTaps, skipped = tap - first_tap;
          run_tile<Arithmetic>({strips + position, offsets + skipped, weights + skipped * kRows, taps, sums,
                                tiling.sum_stride, tap == 0},
                               rows, count);
        }
        if (last) finish_tile<kernel, summed, Element>(task, sums, channel, rows, position, count);
      }
    }
  }
}

// Positions must be consecutive in the output: whole rows, or one row. The blocks of the other algorithms need not be.
template <int kernel, template <typename> class Arithmetic, Summed summed, typename Element>
void run_direct(const Task& task) {
  if (task.block.rows == 1 || task.block.columns == task.params->shape.out_width) {
    return run_direct_block<kernel, Arithmetic, summed, Element>(task);
  }
  Task row = task;
  row.block.rows = 1;
  for (; row.block.row < task.block.row + task.block.rows; ++row.block.row, row.patch_sums += task.block.columns) {
    run_direct_block<kernel, Arithmetic, summed, Element>(row);
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_DIRECT_H_
