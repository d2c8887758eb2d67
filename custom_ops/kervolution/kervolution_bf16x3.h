// Kernels of x.w in pairs of bfloat16 numbers on tiles (common/bf16x3.h): for params.precision EDGECONV_BF16X3.
//
// What the pairs do not serve is computed in float32 by the kernels of AVX-512: tasks whose input or filters hold NaN,
// infinity or numbers near it, or nothing but numbers near the subnormal ones; and squares of differences whose
// filters have a mean that dwarfs their spread, because |x|^2 + |w|^2 - 2 x.w would then cancel what the pairs keep.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_BF16X3_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_BF16X3_H_

#include "common/bf16x3.h"
#include "kervolution/kervolution_task.h"

namespace {

template <int kernel, typename Element>
void run_bf16x3(const Task& task) {
  EdgeconvConvShape shape = task.params->shape;
  PositionBlock block = task.block;
  const int64_t area = shape.out_height * shape.out_width, positions = block.rows * block.columns;
  if (is_contiguous(shape)) {
    // One long row.
    block = {0, 1, block.row * shape.out_width + block.column, positions};
    shape.in_width = shape.out_width = area;
    shape.in_height = shape.out_height = 1;
  }
  gather_channels<kernel, Element>(task, task.first_channel, task.last_channel);
  const auto finish = [&](const float* sums, int64_t channel, int64_t position) {
    const int64_t rows = task.last_channel - channel < 2 * kTileSide ? task.last_channel - channel : 2 * kTileSide,
                  count = positions - position;
    Element* y = output_of<Element>(task, channel) + position;
    const Simd::Float first = load_patch_sum<kernel, Summed::kParts>(task, position);
    const Simd::Float second =
        count > kTileSide ? load_patch_sum<kernel, Summed::kParts>(task, position + kTileSide) : Simd::zero();
    for (int64_t row = 0; row < rows; ++row, y += area) {
      const Channel values = load_channel(task, channel - task.first_channel + row);
      const float* from = sums + row / kTileSide * 2 * kTileFloats + row % kTileSide * kTileSide;
      finish_vector<kernel, Summed::kParts>(Simd::load(from), first, values, count, y);
      if (count <= kTileSide) continue;
      finish_vector<kernel, Summed::kParts>(Simd::load(from + kTileFloats), second, values, count - kTileSide,
                                            y + kTileSide);
    }
  };
  const EdgeconvKervolutionPlan& plan = *task.plan;
  bf16x3_products(shape, plan.block_pairs, block, group_input<Element>(task), task.arguments->packed, task.group,
                  task.first_channel, task.last_channel,
                  {task.scratch, task.scratch + plan.sums, task.scratch + plan.work}, finish);
}

// False where the values are not for pairs of bfloat16 numbers.
template <int kernel, typename Element>
bool run_where_served(Task* task) {
  if (!bf16x3_serves(filter_value(*task, EDGECONV_LARGEST_MAGNITUDE))) return false;
  if (takes_squares(kernel) && filter_value(*task, EDGECONV_HAVE_OFFSET) != 0.0f) return false;
  if (!bf16x3_serves(look_at_patches<patch_sum_of(kernel), Element>(task, true))) return false;
  run_bf16x3<kernel, Element>(*task);
  return true;
}

template <typename Element>
bool run_kernel(Task* task) {
  switch (task->params->kernel) {
    case EDGECONV_POLYNOMIAL: return run_where_served<EDGECONV_POLYNOMIAL, Element>(task);
    case EDGECONV_GAUSSIAN: return run_where_served<EDGECONV_GAUSSIAN, Element>(task);
    case EDGECONV_SIGMOID: return run_where_served<EDGECONV_SIGMOID, Element>(task);
    default: return run_where_served<EDGECONV_EUCLIDEAN, Element>(task);
  }
}

void run_task(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
              const EdgeconvKervolutionArguments* arguments, int64_t index, void* scratch) {
  Task task = make_task(params, plan, arguments, index, scratch);
  const bool half = params->element_type == EDGECONV_FLOAT16;
  if (!(half ? run_kernel<uint16_t>(&task) : run_kernel<float>(&task))) {
    edgeconv_kervolution_avx512.run(params, plan, arguments, index, scratch);
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_BF16X3_H_
