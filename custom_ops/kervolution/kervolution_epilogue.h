// From sums to outputs: what the six kernels make of them, for every algorithm and element type.
//
// The types Simd, RowSimd and kTileVectors are named before this file is included (common/simd_baseline.h).
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_EPILOGUE_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_EPILOGUE_H_

#include "common/patch_sums.h"
#include "common/task_place.h"
#include "common/vector_math.h"
#include "kervolution/kervolution.h"

namespace {

// What has been summed up over the taps.
enum class Summed {
  kArgument,  // what the kernel is a function of: x.w, |x - w|^2, sum |x - w|, max |x - w|
  kParts,     // a part of it: x.w where the kernel takes |x - w|^2, sum max(x, w) where it takes sum |x - w|
};

constexpr bool takes_squares(int kernel) { return kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_EUCLIDEAN; }

// The sum over the patch that completes the parts.
constexpr PatchSum patch_sum_of(int kernel) {
  return takes_squares(kernel)          ? PatchSum::kSquares
         : kernel == EDGECONV_MANHATTAN ? PatchSum::kValues
                                        : PatchSum::kNone;
}

// An output channel's values, each in every lane.
struct Channel {
  Simd::Float balance, scale, sum, bias;
  int64_t degree;
};

template <int kernel>
inline Simd::Float argument_from_parts(Simd::Float sum, Simd::Float patch_sum, const Channel& channel) {
  const Simd::Float both = Simd::add(patch_sum, channel.sum);
  if (kernel == EDGECONV_MANHATTAN)
    return clamp_at_zero(Simd::fma(Simd::set(2.0f), sum, Simd::sub(Simd::zero(), both)));
  if (!takes_squares(kernel)) return sum;
  // An infinite input is infinitely far, where the formula would subtract infinities; NaN fails the comparison, too.
  const Simd::Float finite = clamp_at_zero(Simd::fma(Simd::set(-2.0f), sum, both));
  return Simd::select_less(both, Simd::set(__builtin_inff()), finite, both);
}

template <int kernel, Summed summed>
inline Simd::Float epilogue(Simd::Float sum, Simd::Float patch_sum, const Channel& channel) {
  const Simd::Float a = summed == Summed::kParts ? argument_from_parts<kernel>(sum, patch_sum, channel) : sum;
  Simd::Float y;
  if (kernel == EDGECONV_POLYNOMIAL) {
    y = integer_power(Simd::add(a, channel.balance), channel.degree);
  } else if (kernel == EDGECONV_SIGMOID) {
    y = hyperbolic_tangent(Simd::fma(channel.scale, a, channel.balance));
  } else {
    const Simd::Float negative = Simd::sub(Simd::zero(), a);
    y = kernel == EDGECONV_GAUSSIAN ? exponential(Simd::mul(channel.scale, negative)) : negative;
  }
  return Simd::add(y, channel.bias);
}

// A task: a block of output positions for a chunk of output channels.
struct Task : TaskPlace {
  const EdgeconvKervolutionParams* params;
  const EdgeconvKervolutionPlan* plan;
  const EdgeconvKervolutionArguments* arguments;
  float* scratch;
  const float* patch_sums;  // one a position of the block
};

template <typename Element>
inline const Element* group_input(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  return static_cast<const Element*>(task.arguments->x) +
         (task.item * shape.group + task.group) * (shape.in_channels / shape.group) * shape.in_height * shape.in_width;
}

// An output channel's values in the task's scratch, gathered once: they come from four arrays, each of which may have
// one value for all channels.
enum ChannelValue { kBalance, kScale, kSum, kBias, kChannelValues };

inline float value_of(const EdgeconvChannelValues& values, int64_t channel) {
  return values.values ? values.values[channel * values.stride] : 0.0f;
}

// Gathers the values of the group's channels [first, last).
template <int kernel, typename Element>
void gather_channels(const Task& task, int64_t first, int64_t last) {
  const EdgeconvKervolutionArguments& arguments = *task.arguments;
  const int64_t group = task.group * task.plan->tiling.group_channels;
  float* to = task.scratch + task.plan->channels;
  for (int64_t channel = group + first; channel < group + last; ++channel, to += kChannelValues) {
    to[kBalance] = value_of(arguments.balance, channel);
    to[kScale] = value_of(arguments.scale, channel);
    to[kSum] = arguments.packed[task.plan->packed_floats + channel];
    // -0 leaves every value as it is, 0 would turn -0 into 0.
    to[kBias] = arguments.bias ? element_to_float(static_cast<const Element*>(arguments.bias)[channel]) : -0.0f;
  }
}

// The values of channel `index` of those gathered.
inline Channel load_channel(const Task& task, int64_t index) {
  const float* from = task.scratch + task.plan->channels + index * kChannelValues;
  return {Simd::set(from[kBalance]), Simd::set(from[kScale]), Simd::set(from[kSum]), Simd::set(from[kBias]),
          task.params->degree};
}

// Where the outputs of channel `channel` of the task's group at the block's first position are.
template <typename Element>
inline Element* output_of(const Task& task, int64_t channel) {
  const EdgeconvConvShape& shape = task.params->shape;
  const int64_t plane = task.item * shape.out_channels + task.group * task.plan->tiling.group_channels + channel;
  return static_cast<Element*>(task.arguments->y) + (plane * shape.out_height + task.block.row) * shape.out_width +
         task.block.column;
}

// One vector of outputs, or the first `count` of it.
template <int kernel, Summed summed, typename Element>
inline void finish_vector(Simd::Float sum, Simd::Float patch_sum, const Channel& channel, int64_t count, Element* y) {
  const Simd::Float result = epilogue<kernel, summed>(sum, patch_sum, channel);
  if (count >= Simd::kLanes) {
    Simd::store(y, result);
  } else {
    Simd::store_first(y, result, static_cast<int>(count));
  }
}

template <int kernel, Summed summed>
inline Simd::Float load_patch_sum(const Task& task, int64_t position) {
  constexpr bool kNeeded = summed == Summed::kParts && patch_sum_of(kernel) != PatchSum::kNone;
  return kNeeded ? Simd::load(task.patch_sums + position) : Simd::zero();
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_EPILOGUE_H_
