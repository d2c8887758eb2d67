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

// Computes what the epilogue must know of the patches; returns the largest magnitude of the input, if that is
// `wanted`.
template <PatchSum kind, typename Element>
float look_at_patches(Task* task, bool wanted) {
  const EdgeconvConvShape& shape = task->params->shape;
  const Element* x = group_input<Element>(*task);
  if (kind == PatchSum::kNone) return wanted ? largest_magnitude(shape, task->block, x) : 0.0f;
  float* const sums = task->scratch + task->plan->patch_sums;
  task->patch_sums = sums;
  return patch_sums<kind>(shape, task->block, x, task->scratch + task->plan->work, sums);
}

// Task `index` of the plan.
inline Task make_task(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
                      const EdgeconvKervolutionArguments* arguments, int64_t index, void* scratch) {
  Task task = {};
  static_cast<TaskPlace&>(task) = task_place(params->shape, plan->tiling, plan->group_chunk, index);
  task.params = params;
  task.plan = plan;
  task.arguments = arguments;
  task.scratch = static_cast<float*>(scratch);
  return task;
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_TASK_H_
