// The kervolution kernels, once for every instruction set: the file that includes this one names the vector types
// before it (common/simd_baseline.h says which).
//
// Kernels:   three algorithms (kervolution_direct.h, kervolution_winograd.h, kervolution_depthwise.h) over one register
//            tile (common/micro_kernel.h) and one epilogue (kervolution_epilogue.h), chosen at compile time.
// Launcher:  run_task() computes one block of output positions for one chunk of output channels.
//
// Sums of maxima in place of differences, Winograd's sums and the comparisons that forget NaN are for ordinary values:
// where the task's input or the filters hold NaN, infinity or numbers near it, the plain direct algorithm takes over.
// So it does where the filters have a mean that dwarfs their spread, and forms that subtract large sums would lose
// digits.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_

#include "kervolution/kervolution_depthwise.h"
#include "kervolution/kervolution_direct.h"
#include "kervolution/kervolution_task.h"
#include "kervolution/kervolution_winograd.h"

namespace {

// False for NaN, too.
inline bool is_ordinary(float magnitude) { return magnitude < 0x1p60f; }

template <int kernel, typename Element>
void run_products(Task* task) {
  const float largest_weight = filter_value(*task, EDGECONV_LARGEST_MAGNITUDE);
  if (takes_squares(kernel) && is_ordinary(largest_weight) && filter_value(*task, EDGECONV_HAVE_OFFSET) != 0.0f) {
    return run_direct<kernel, SquaredDifference, Summed::kArgument, Element>(*task);
  }
  const bool winograd = task->plan->algorithm == EDGECONV_WINOGRAD;
  const float largest_input = look_at_patches<patch_sum_of(kernel), Element>(task, winograd);
  if (winograd && winograd_serves(largest_input, largest_weight)) return run_winograd<kernel, Element>(*task);
  run_direct<kernel, DotProduct, Summed::kParts, Element>(*task);
}

template <int kernel, template <typename> class Plain, template <typename> class Ordinary, Summed summed,
          typename Element>
void run_differences(Task* task) {
  const float largest_input = look_at_patches<patch_sum_of(kernel), Element>(task, true);
  const bool exact = kernel == EDGECONV_CHEBYSHEV || filter_value(*task, EDGECONV_HAVE_OFFSET) == 0.0f;
  if (exact && is_ordinary(largest_input) && is_ordinary(filter_value(*task, EDGECONV_LARGEST_MAGNITUDE))) {
    return run_direct<kernel, Ordinary, summed, Element>(*task);
  }
  run_direct<kernel, Plain, Summed::kArgument, Element>(*task);
}

template <int kernel, typename Element>
void run_group(Task* task) {
  if constexpr (kernel == EDGECONV_MANHATTAN && Simd::kHasAbsoluteDifference) {
    run_direct<kernel, AbsoluteDifference, Summed::kArgument, Element>(*task);
  } else if constexpr (kernel == EDGECONV_MANHATTAN) {
    run_differences<kernel, AbsoluteDifference, SumOfMaxima, Summed::kParts, Element>(task);
  } else if constexpr (kernel == EDGECONV_CHEBYSHEV) {
    run_differences<kernel, MaximumDifference, OrderedMaximumDifference, Summed::kArgument, Element>(task);
  } else {
    run_products<kernel, Element>(task);
  }
}

template <int kernel, template <typename> class Arithmetic, typename Element>
void run_groups(Task* task) {
  // Squares of infinite differences are not what |x|^2 + |w|^2 - 2 x.w is defined as.
  const bool serves = !takes_squares(kernel) || is_ordinary(filter_value(*task, EDGECONV_LARGEST_MAGNITUDE));
  if (task->plan->algorithm == EDGECONV_DEPTHWISE && serves) {
    return run_depthwise<kernel, Arithmetic<Simd>, Element>(*task);
  }
  for (; task->group < task->last_group; ++task->group) run_group<kernel, Element>(task);
}

template <typename Element>
void run_kernel(Task* task) {
  switch (task->params->kernel) {
    case EDGECONV_POLYNOMIAL: return run_groups<EDGECONV_POLYNOMIAL, DotProduct, Element>(task);
    case EDGECONV_GAUSSIAN: return run_groups<EDGECONV_GAUSSIAN, SquaredDifference, Element>(task);
    case EDGECONV_SIGMOID: return run_groups<EDGECONV_SIGMOID, DotProduct, Element>(task);
    case EDGECONV_EUCLIDEAN: return run_groups<EDGECONV_EUCLIDEAN, SquaredDifference, Element>(task);
    case EDGECONV_MANHATTAN: return run_groups<EDGECONV_MANHATTAN, AbsoluteDifference, Element>(task);
    default: return run_groups<EDGECONV_CHEBYSHEV, MaximumDifference, Element>(task);
  }
}

void run_task(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
              const EdgeconvKervolutionArguments* arguments, int64_t index, void* scratch) {
  Task task = make_task(params, plan, arguments, index, scratch);
  if (params->element_type == EDGECONV_FLOAT16) return run_kernel<uint16_t>(&task);
  run_kernel<float>(&task);
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_
