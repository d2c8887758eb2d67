// From sums to bytes, for every algorithm.
//
// The types Simd and Ints are named before this file is included (common/ints_baseline.h).
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_EPILOGUE_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_EPILOGUE_H_

#include "common/byte_strips.h"
#include "common/task_place.h"
#include "qlinear_kervolution/qlinear_kervolution.h"

namespace {

// A task: a block of output positions for a chunk of output channels.
struct Task : TaskPlace {
  const EdgeconvQLinearKervolutionParams* params;
  const EdgeconvQLinearKervolutionPlan* plan;
  const EdgeconvQLinearKervolutionArguments* arguments;
  uint8_t* scratch;
};

inline const uint8_t* group_input(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  return static_cast<const uint8_t*>(task.arguments->x) +
         (task.item * shape.group + task.group) * (shape.in_channels / shape.group) * shape.in_height * shape.in_width;
}

inline int64_t channel_index(const Task& task, int64_t channel) {
  return task.group * task.plan->tiling.group_channels + channel;
}

// Where the outputs of channel `channel` of the task's group at the block's first position are.
inline uint8_t* output_of(const Task& task, int64_t channel) {
  const EdgeconvConvShape& shape = task.params->shape;
  const int64_t plane = task.item * shape.out_channels + channel_index(task, channel);
  return static_cast<uint8_t*>(task.arguments->y) + (plane * shape.out_height + task.block.row) * shape.out_width +
         task.block.column;
}

// What makes bytes of sums: the same for every channel but the bias.
struct Quantizer {
  Simd::Float negative_x_scale, y_scale, low, high;
  Ints::Int zero_point;
  const float* bias;

  explicit Quantizer(const Task& task) {
    const int32_t zero = task.arguments->y_zero_point;
    const int32_t lowest = task.params->y_type == EDGECONV_INT8 ? -128 : 0;
    negative_x_scale = Simd::set(-task.params->x_scale);
    y_scale = Simd::set(task.arguments->y_scale);
    low = Simd::set(static_cast<float>(lowest - zero));
    high = Simd::set(static_cast<float>(lowest + 255 - zero));
    zero_point = Ints::set(zero);
    bias = task.arguments->bias;
  }

  // -0 leaves every value as it is, 0 would turn -0 into 0.
  Simd::Float bias_of(int64_t channel) const { return Simd::set(bias != nullptr ? bias[channel] : -0.0f); }

  // One vector of outputs, or the first `count` of it, from the negative distance.
  void store(Simd::Float distance, Simd::Float channel_bias, int64_t count, uint8_t* y) const {
    const Simd::Float quotient = Simd::div(Simd::add(distance, channel_bias), y_scale);
    const Ints::Int steps = Ints::add(Ints::round_between(quotient, low, high), zero_point);
    if (count >= Simd::kLanes) {
      Ints::store_bytes(y, steps);
    } else {
      Ints::store_first_bytes(y, steps, static_cast<int>(count));
    }
  }
};

// The outputs of one channel at `count` positions.
template <bool maxima>
__attribute__((noinline)) void finish_row(const Quantizer& quantizer, const int32_t* sums, const int32_t* patch_sums,
                                          int32_t channel_constant, Simd::Float bias, int64_t count, uint8_t* y) {
  const Ints::Int constant = Ints::set(channel_constant);
  for (int64_t i = 0; i < count; i += Simd::kLanes) {
    Ints::Int sum = Ints::load(sums + i);
    if (maxima) sum = Ints::sub(Ints::add(sum, sum), Ints::load(patch_sums + i));
    const Simd::Float value = Ints::to_float(Ints::add(sum, constant));
    quantizer.store(Simd::mul(quantizer.negative_x_scale, value), bias, count - i, y + i);
  }
}

inline ByteInput byte_input(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const bool is_signed = task.params->x_type == EDGECONV_INT8;
  ByteInput input = {};
  input.x = group_input(task);
  input.end = static_cast<const uint8_t*>(task.arguments->x) +
              shape.batch * shape.in_channels * shape.in_height * shape.in_width;
  input.flip = is_signed ? 0x80 : 0;
  input.zero = static_cast<uint8_t>(task.params->x_zero_point + (is_signed ? 128 : 0));
  input.line = task.scratch + task.plan->line;
  return input;
}

inline const int32_t* channel_constants(const Task& task) {
  return reinterpret_cast<const int32_t*>(static_cast<const uint8_t*>(task.arguments->packed) +
                                          task.plan->filter_bytes);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_EPILOGUE_H_
