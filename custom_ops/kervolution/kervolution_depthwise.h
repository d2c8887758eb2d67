// Filters of one input channel each. There is little to compute for each input, so nothing is unfolded: a channel's
// rows lie padded in L1, those of each vertical and horizontal phase of the stride for themselves. There every tap of
// every output position is a constant distance away, also from the end of one row to the beginning of the next, so that
// vectors run across rows; what they compute between the rows is left behind.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_

#include "common/micro_kernel.h"
#include "kervolution/kervolution_epilogue.h"

namespace {

constexpr int kRowVectors = 4;

// Outputs at kRowVectors vectors of positions from `from` on, in float.
template <int kernel, typename A>
inline void depthwise_vectors(const float* from, const int32_t* offsets, const float* weights, int64_t taps,
                              const Channel& channel, float* to) {
  const A arithmetic;
  typename A::Vector sums[kRowVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kRowVectors; ++v) sums[v] = A::zero();
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* x = from + offsets[tap];
    const typename A::Vector w = A::set(weights[tap]);
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) {
      sums[v] = arithmetic.accumulate(sums[v], A::load(x + v * Simd::kLanes), w);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kRowVectors; ++v) {
    Simd::store(to + v * Simd::kLanes, epilogue<kernel, Summed::kArgument>(sums[v], Simd::zero(), channel));
  }
}

// The group's filters on its channel, for the groups of one task.
template <int kernel, typename A, typename Element>
void run_depthwise(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvKervolutionPlan& plan = *task.plan;
  const PositionBlock& block = task.block;
  const int64_t pitch = plan.pitch, plane = plan.plane, taps = plan.tiling.taps;
  const int64_t row_phases = shape.stride_height, column_phases = shape.stride_width;
  int32_t* const offsets = reinterpret_cast<int32_t*>(task.scratch + plan.offsets);
  for (int64_t i = 0, tap = 0; i < shape.kernel_height; ++i) {
    const int64_t row = i * shape.dilation_height;
    for (int64_t j = 0; j < shape.kernel_width; ++j, ++tap) {
      const int64_t column = j * shape.dilation_width;
      offsets[tap] = static_cast<int32_t>((row % row_phases * column_phases + column % column_phases) * plane +
                                          row / row_phases * pitch + column / column_phases);
    }
  }
  float* const planes = task.scratch;
  float* const results = task.scratch + plan.sums;
  fill_zeros(planes, row_phases * column_phases * plane + kRowVectors * Simd::kLanes);
  const SeenRows rows(shape, block);
  const int64_t positions = (block.rows - 1) * pitch + block.columns;
  for (int64_t group = task.group; group < task.last_group; ++group) {
    Task of_group = task;
    of_group.group = group;
    const Element* x = group_input<Element>(of_group);
    for (int64_t phase = 0; phase < column_phases; ++phase) {
      const RowSpan span(shape.in_width, block.column * column_phases - shape.pad_left + phase, column_phases, pitch);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        if (phase == 0)
          prefetch_row(x + (shape.in_height + row) * shape.in_width, shape.in_width);  // the next channel's
        const int64_t seen = row - rows.first;
        float* to = planes + (seen % row_phases * column_phases + phase) * plane + seen / row_phases * pitch;
        copy_strided<RowEnd::kExact>(x + row * shape.in_width + span.first + span.begin * span.stride,
                                     span.end - span.begin, span.stride, to + span.begin);
      }
    }
    gather_channels<kernel, Element>(of_group, 0, plan.tiling.group_channels);
    for (int64_t channel = 0; channel < plan.tiling.group_channels; ++channel) {
      const Channel values = load_channel(task, channel);
      const float* weights = task.arguments->packed + (group * plan.tiling.group_channels + channel) * taps;
      for (int64_t position = 0; position < positions; position += kRowVectors * Simd::kLanes) {
        depthwise_vectors<kernel, A>(planes + position, offsets, weights, taps, values, results + position);
      }
      Element* y = output_of<Element>(of_group, channel);
      for (int64_t row = 0; row < block.rows; ++row, y += shape.out_width) {
        const float* from = results + row * pitch;
        int64_t c = 0;
        for (; c + Simd::kLanes <= block.columns; c += Simd::kLanes) Simd::store(y + c, Simd::load(from + c));
        if (c < block.columns) Simd::store_first(y + c, Simd::load(from + c), static_cast<int>(block.columns - c));
      }
    }
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_DEPTHWISE_H_
