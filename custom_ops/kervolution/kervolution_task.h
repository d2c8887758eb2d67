// A task of the kervolution kernels: which part of the output it is, and what it finds out about its inputs before it
// chooses how to compute them.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_TASK_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_TASK_H_

#include "kervolution/kervolution_epilogue.h"

namespace {

// What edgeconv_kervolution_pack found out about the filters.
inline float filter_value(const Task& task, EdgeconvFilterValue value) {
  return task.arguments->packed[task.plan->packed_floats + task.params->shape.out_channels + value];
}

// Computes what the epilogue must know of the patches; returns the size of the input, if that is `wanted`.
template <PatchSum kind, typename Element>
Magnitude look_at_patches(Task* task, bool wanted) {
  const EdgeconvConvShape& shape = task->params->shape;
  const Element* x = group_input<Element>(*task);
  if (kind == PatchSum::kNone) return wanted ? magnitude_of(shape, task->block, x) : Magnitude{};
  float* const sums = task->scratch + task->plan->patch_sums;
  task->patch_sums = sums;
  return patch_sums<kind>(shape, task->block, x, task->scratch + task->plan->work, sums);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Task `index` of the plan.
inline Task make_task(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
                      const EdgeconvKervolutionArguments* arguments, int64_t index, void* scratch) {
  // Blocks of positions vary fastest: a thread that runs tasks in order keeps its channels' weights in the cache.
  const EdgeconvConvShape& shape = params->shape;
  const EdgeconvTiling& tiling = plan->tiling;
  Task task = {};
  task.params = params;
  task.plan = plan;
  task.arguments = arguments;
  task.scratch = static_cast<float*>(scratch);
  task.block.column = index % tiling.column_blocks * tiling.block_columns;
  task.block.columns = smaller(tiling.block_columns, shape.out_width - task.block.column);
  index /= tiling.column_blocks;
  task.block.row = index % tiling.row_blocks * tiling.block_rows;
  task.block.rows = smaller(tiling.block_rows, shape.out_height - task.block.row);
  index /= tiling.row_blocks;
  task.first_channel = index % tiling.chunks * tiling.channel_chunk;
  task.last_channel = smaller(tiling.group_channels, task.first_channel + tiling.channel_chunk);
  index /= tiling.chunks;
  const int64_t group_chunks = (shape.group + plan->group_chunk - 1) / plan->group_chunk;
  task.group = index % group_chunks * plan->group_chunk;
  task.last_group = smaller(shape.group, task.group + plan->group_chunk);
  task.item = index / group_chunks;
  return task;
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_TASK_H_
