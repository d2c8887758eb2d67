// Filters of one input channel each. There is little to compute for each input, so nothing is unfolded into elements:
// lanes are bytes of the padded input, and |x - w| is added up in 16 bits.
//
// The padded rows of a channel lie in scratch, split by the phases of the strides, so that a tap is an offset for all
// positions: output (r, c) is at r * pitch + c, across rows. What is computed between two rows is not used.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_DEPTHWISE_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_DEPTHWISE_H_

#include "qlinear_kervolution/qlinear_kervolution_epilogue.h"

namespace {

constexpr int kWordVectors = 4;
static_assert(kWordVectors * Words::kLanes <= EDGECONV_DEPTHWISE_SLACK, "reads and writes beyond the last position");

template <int vectors>
inline void sum_differences(const uint8_t* from, const int32_t* offsets, const uint8_t* weights, int64_t taps,
                            int32_t* to) {
  typename Words::Sum sums[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) sums[v] = Words::zero();
  for (int64_t tap = 0; tap < taps; ++tap) {
    const Words::Bytes w = Words::set(weights[tap]);
    const uint8_t* x = from + offsets[tap];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[v] = Words::add_difference(sums[v], Words::load(x + v * Words::kLanes), w);
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) Words::store(to + v * Words::kLanes, sums[v]);
}

// The block's rows of the task's channel, flipped and padded: [row phase][column phase][row][pitch].
__attribute__((noinline)) void fill_phases(const Task& task, int64_t phase_rows, int64_t pitch, uint8_t* to) {
  const EdgeconvConvShape& shape = task.params->shape;
  const ByteInput input = byte_input(task);
  const int64_t first_row = task.block.row * shape.stride_height - shape.pad_top;
  const int64_t first_column = task.block.column * shape.stride_width - shape.pad_left;
  for (int64_t row_phase = 0; row_phase < shape.stride_height; ++row_phase) {
    for (int64_t column_phase = 0; column_phase < shape.stride_width; ++column_phase) {
      const RowSpan span(shape.in_width, first_column + column_phase, shape.stride_width, pitch);
      for (int64_t r = 0; r < phase_rows; ++r, to += pitch) {
        const int64_t row = first_row + r * shape.stride_height + row_phase;
        if (row < 0 || row >= shape.in_height) {
          fill_elements(to, pitch, input.zero);
          continue;
        }
        const uint8_t* from = input.x + row * shape.in_width + span.first + span.begin * span.stride;
        fill_elements(to, span.begin, input.zero);
        copy_flipped(from, span.stride, span.end - span.begin, input.flip, to + span.begin);
        fill_elements(to + span.end, pitch - span.end, input.zero);
      }
    }
  }
}

void run_depthwise(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvQLinearKervolutionPlan& plan = *task.plan;
  const int64_t taps = shape.kernel_height * shape.kernel_width, pitch = plan.pitch;
  const int64_t row_reach = (shape.kernel_height - 1) * shape.dilation_height / shape.stride_height;
  const int64_t phase_rows = task.block.rows + row_reach;
  uint8_t* const rows = task.scratch;
  int32_t* const sums = reinterpret_cast<int32_t*>(task.scratch + plan.sums);
  int32_t* const offsets = reinterpret_cast<int32_t*>(task.scratch + plan.offsets);
  for (int64_t i = 0, tap = 0; i < shape.kernel_height; ++i) {
    const int64_t row = i * shape.dilation_height;
    for (int64_t j = 0; j < shape.kernel_width; ++j, ++tap) {
      const int64_t column = j * shape.dilation_width;
      const int64_t phase = row % shape.stride_height * shape.stride_width + column % shape.stride_width;
      offsets[tap] =
          static_cast<int32_t>((phase * phase_rows + row / shape.stride_height) * pitch + column / shape.stride_width);
    }
  }
  fill_phases(task, phase_rows, pitch, rows);
  const int64_t positions = (task.block.rows - 1) * pitch + task.block.columns;
  const Quantizer quantizer(task);
  for (int64_t channel = task.first_channel; channel < task.last_channel; ++channel) {
    const int64_t index = channel_index(task, channel);
    const uint8_t* weights = static_cast<const uint8_t*>(task.arguments->packed) + index * taps;
    int64_t position = 0;
    for (; position + (kWordVectors - 1) * Words::kLanes < positions; position += kWordVectors * Words::kLanes) {
      sum_differences<kWordVectors>(rows + position, offsets, weights, taps, sums + position);
    }
    for (; position < positions; position += Words::kLanes) {
      sum_differences<1>(rows + position, offsets, weights, taps, sums + position);
    }
    uint8_t* y = output_of(task, channel);
    for (int64_t r = 0; r < task.block.rows; ++r, y += shape.out_width) {
      finish_row<false>(quantizer, sums + r * pitch, nullptr, channel_constants(task)[index], quantizer.bias_of(index),
                        task.block.columns, y);
    }
  }
}

}  // namespace

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_DEPTHWISE_H_
