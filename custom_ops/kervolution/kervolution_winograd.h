// Kernels of x.w by Winograd's algorithm (common/winograd.h), for ordinary values.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_WINOGRAD_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_WINOGRAD_H_

#include "common/winograd.h"
#include "kervolution/kervolution_epilogue.h"

namespace {

template <int kernel, typename Element>
void run_winograd(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvKervolutionPlan& plan = *task.plan;
  const int64_t channels = shape.in_channels / shape.group;
  const int64_t rows = (task.block.rows + 1) / 2, columns = (task.block.columns + 1) / 2;
  const WinogradBlock block = {rows,
                               columns,
                               plan.pitch,
                               task.scratch,
                               task.scratch + plan.sums,
                               task.scratch + plan.outputs,
                               task.scratch + plan.work};
  const int64_t padded = plan.tiling.padded_channels;
  const float* packed = task.arguments->packed + 16 * task.group * padded * channels;
  winograd_outputs(shape, task.block, block, group_input<Element>(task), packed, padded, task.first_channel,
                   task.last_channel, reinterpret_cast<int32_t*>(task.scratch + plan.offsets));
  gather_channels<kernel, Element>(task, task.first_channel, task.last_channel);
  for (int64_t channel = task.first_channel; channel < task.last_channel; ++channel) {
    const Channel values = load_channel(task, channel - task.first_channel);
    Element* const y = output_of<Element>(task, channel);
    const float* outputs = block.outputs + (channel - task.first_channel) * 4 * block.stride;
    for (int64_t row = 0; row < task.block.rows; ++row) {
      const float* even = outputs + row % 2 * 2 * block.stride + row / 2 * block.columns;
      for (int64_t c = 0; c < task.block.columns; c += 2 * Simd::kLanes, even += Simd::kLanes) {
        const int64_t position = row * task.block.columns + c, count = task.block.columns - c;
        Element* const to = y + row * shape.out_width + c;
        Simd::Float low, high;
        Simd::interleave(Simd::load(even), Simd::load(even + block.stride), &low, &high);
        finish_vector<kernel, Summed::kParts>(low, load_patch_sum<kernel, Summed::kParts>(task, position), values,
                                              count, to);
        if (count <= Simd::kLanes) continue;
        finish_vector<kernel, Summed::kParts>(high,
                                              load_patch_sum<kernel, Summed::kParts>(task, position + Simd::kLanes),
                                              values, count - Simd::kLanes, to + Simd::kLanes);
      }
    }
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_WINOGRAD_H_
