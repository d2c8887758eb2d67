// The kernels, once for every instruction set: the file that includes this one names the types Simd and Dots before it
// (common/simd_baseline.h, dots_baseline.h).
//
// By rows:      a task is a few rows of the result. For every block of the expansion's channels it computes the rows of
//               the depthwise stage's input that are new (the others are in a ring of rows), then the depthwise rows;
//               then the projection of all of them. What is expanded is read back from the first or the second cache.
// By channels:  where the whole image is so small that halos would cost much and weights outweigh activations, a task
// of
//               even phases is one block of the expansion's channels for the whole image, and a task of odd phases a
//               block of the projection's.
// Kernels:      qlinear_mobile_tile.h (dense, pointwise), qlinear_mobile_depthwise.h, qlinear_mobile_function.h
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_KERNEL_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_KERNEL_H_

#include "qlinear_mobile/qlinear_mobile_depthwise.h"
#include "qlinear_mobile/qlinear_mobile_function.h"

namespace {

inline BlockWeights block_weights(const Call& call, int stage, const ChannelBlock& block) {
  const EdgeconvMobilePacked& packed = call.plan->packed[stage];
  const uint8_t* const from = static_cast<const uint8_t*>(call.arguments->packed);
  return {reinterpret_cast<const Dots::Weight*>(from + packed.weights) + block.first * packed.depth,
          reinterpret_cast<const int32_t*>(from + packed.bias) + block.first,
          reinterpret_cast<const float*>(from + packed.multipliers) + block.first,
          reinterpret_cast<const float*>(from + packed.offsets) + block.first,
          reinterpret_cast<const Dots::Weight*>(from + packed.weights) +
              (block.first + block.vectors * Dots::kLanes) * packed.depth};
}

inline ChannelBlock block_of(const Call& call, int stage, int64_t index) {
  return channel_block(call.params->stages[stage].shape.out_channels, Dots::kLanes, call.plan->packed[stage].blocks,
                       index);
}

inline int64_t block_channels(const ChannelBlock& block, int64_t channels) {
  return least_of(block.vectors * Dots::kLanes, channels - block.first);
}

// A real limit as steps of the grid, less its zero-point; far ones saturate.
inline int limit_step(float value, float scale, int least, int most) {
  const float step = value / scale;
  if (!(step > static_cast<float>(least))) return least;
  return step < static_cast<float>(most) ? static_cast<int>(__builtin_rintf(step)) : most;
}

struct StepLimits {
  int zero_point, low, high;  // in the type; low and high with the zero-point
  StepLimits(const Call& call, const EdgeconvQLinearGrid& grid, float least, float most) {
    const int lowest = call.params->type == EDGECONV_INT8 ? -128 : 0, highest = lowest + 255;
    zero_point = grid.zero_point;
    low = zero_point + limit_step(least, grid.scale, lowest - zero_point, highest - zero_point);
    high = zero_point + limit_step(most, grid.scale, lowest - zero_point, highest - zero_point);
  }
};

inline Narrowing narrowing_of(const Call& call, int stage) {
  const EdgeconvQLinearStage& given = call.params->stages[stage];
  const StepLimits limits(call, given.y, given.least, given.most);
  const int shift = call.params->type == EDGECONV_INT8 ? 128 : 0;
  const EdgeconvMobileHeader& header = *static_cast<const EdgeconvMobileHeader*>(call.arguments->packed);
  return {Dots::Limits(limits.zero_point + shift, limits.low + shift, limits.high + shift), header.far[stage] != 0,
          header.biased[stage] != 0};
}

// Calls run(store) with what stores results of the last stage in a block of channels, from position `position` of the
// image on. Where they are to be transposed they go to the scratch first.
template <typename Run>
inline void with_result(const Call& call, int stage, int64_t item, int64_t position, const ChannelBlock& block,
                        const Run& run) {
  const EdgeconvQLinearMobileParams& params = *call.params;
  const EdgeconvQLinearStage& given = params.stages[stage];
  const EdgeconvConvShape& shape = given.shape;
  const int64_t index = item * shape.out_height * shape.out_width + position;
  const int64_t channels = block_channels(block, shape.out_channels);
  const int64_t stride = params.y_channels_last ? shape.out_channels : kBlock;
  uint8_t* const y = params.y_channels_last ? call.arguments->y + index * shape.out_channels + block.first
                                            : call.scratch + call.plan->result;
  const Narrowing own = narrowing_of(call, stage);
  if (params.function != EDGECONV_NO_FUNCTION) {
    const EdgeconvMobilePacked& packed = call.plan->packed[stage];
    const float* const functions =
        reinterpret_cast<const float*>(static_cast<const uint8_t*>(call.arguments->packed) + packed.functions) +
        block.first;
    const int64_t padded = round_up(shape.out_channels, Dots::kLanes);
    const StepLimits limits(call, given.y, given.least, given.most);
    const FunctionBlock own_block = {params.function,
                                     params.degree,
                                     block_weights(call, stage, block).multipliers,
                                     functions,
                                     functions + padded,
                                     functions + 2 * padded,
                                     functions + 3 * padded,
                                     given.y.scale,
                                     static_cast<float>(limits.low - limits.zero_point),
                                     static_cast<float>(limits.high - limits.zero_point),
                                     &own};
    const float* const norms =
        call.plan->norms == 0 ? nullptr : reinterpret_cast<const float*>(call.scratch + call.plan->norms);
    const StoreFunction store = {y, stride, channels, call.flip, &own_block, norms};
    return run(store);
  }
  if (!params.residual) {
    const StoreResult<false> store = {y, stride, channels, call.flip, &own, nullptr, nullptr, 0};
    return run(store);
  }
  const StepLimits limits(call, given.y, given.least, given.most);
  const int shift = params.type == EDGECONV_INT8 ? 128 : 0;
  // Quotients of steps may be far only where the scales are.
  const float scale = given.y.scale / params.sum.scale, x_scale = params.x.scale / params.sum.scale;
  const Narrowing sum = {Dots::Limits(params.sum.zero_point + shift, 0, 255), scale + x_scale > 1e6f, false};
  Residual residual;
  const uint8_t* const x = params.x_channels_last ? call.arguments->x + index * shape.out_channels + block.first
                                                  : call.scratch + call.plan->added;
  const int64_t x_stride = params.x_channels_last ? shape.out_channels : kBlock;
  residual.x_zero_point = Simd::set(static_cast<float>(params.x.zero_point + shift));
  residual.low = Simd::set(static_cast<float>(limits.low - limits.zero_point));
  residual.high = Simd::set(static_cast<float>(limits.high - limits.zero_point));
  residual.scale = Simd::set(scale);
  residual.x_scale = Simd::set(x_scale);
  const StoreResult<true> store = {y, stride, channels, call.flip, &sum, &residual, x, x_stride};
  run(store);
}

// X in the channels of a block, for the residual, where it lies in planes.
inline void gather_residual(const Call& call, int64_t item, int64_t position, int64_t count, const ChannelBlock& block,
                            int64_t channels) {
  if (!call.params->residual || call.params->x_channels_last) return;
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_POINTWISE].shape;
  const int64_t plane = shape.out_height * shape.out_width;
  uint8_t* const to = call.scratch + call.plan->added;
  for (int64_t channel = 0; channel < channels; ++channel) {
    const uint8_t* const from =
        call.arguments->x + (item * shape.out_channels + block.first + channel) * plane + position;
    for (int64_t i = 0; i < count; ++i) to[i * kBlock + channel] = from[i];
  }
}

// From the scratch to the planes of the block's channels.
inline void transpose_result(const Call& call, int stage, int64_t item, int64_t position, int64_t count,
                             const ChannelBlock& block, int64_t channels) {
  if (call.params->y_channels_last) return;
  const EdgeconvConvShape& shape = call.params->stages[stage].shape;
  const int64_t plane = shape.out_height * shape.out_width;
  const uint8_t* const from = call.scratch + call.plan->result;
  for (int64_t channel = 0; channel < channels; ++channel) {
    uint8_t* const to = call.arguments->y + (item * shape.out_channels + block.first + channel) * plane + position;
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * kBlock + channel];
  }
}

// `rows` rows of a dense stage's results in one block of channels.
template <typename Store>
inline void run_dense(const Call& call, const EdgeconvConvShape& shape, const InputView& view, int64_t vectors,
                      int64_t rows, const BlockWeights& weights, const Store& store) {
  const int64_t columns = shape.out_width;
  DotInput input = view.input;
  if (view.flat) return run_dots(call.tiles, vectors, input, rows * columns, weights, store);
  Store moved = store;
  for (int64_t row = 0; row < rows; ++row) {
    run_dots(call.tiles, vectors, input, columns, weights, moved);
    input.x += shape.stride_height * view.pitch;
    moved.advance(columns);
  }
}

// The input of the depthwise stage, rows [first, last), in one block of channels.
inline void fill_ring(const Call& call, int64_t item, const InputView& view, int64_t first, int64_t last, int64_t index,
                      Element* ring, const int32_t* places) {
  if (call.plan->first == EDGECONV_MOBILE_DEPTHWISE) {
    const ChannelBlock block = block_of(call, EDGECONV_MOBILE_DEPTHWISE, index);
    return copy_to_ring(call, item, first, last, block, ring, places);
  }
  const ChannelBlock block = block_of(call, EDGECONV_MOBILE_DENSE, index);
  const BlockWeights weights = block_weights(call, EDGECONV_MOBILE_DENSE, block);
  const Narrowing narrowing = narrowing_of(call, EDGECONV_MOBILE_DENSE);
  const EdgeconvConvShape& dense = call.params->stages[EDGECONV_MOBILE_DENSE].shape;
  if constexpr (Dots::kBiased) {
    if (narrowing.biased) {
      const StoreActivations<true> store = {ring, places, &narrowing};
      return run_dense(call, dense, view, block.vectors, last - first, weights, store);
    }
  }
  const StoreActivations<false> store = {ring, places, &narrowing};
  run_dense(call, dense, view, block.vectors, last - first, weights, store);
}

// Rows [first, last) of the depthwise stage's results in one block of channels.
inline void run_depthwise(const Call& call, int64_t index, int64_t first, int64_t last, const Element* ring, Element* y,
                          int64_t y_stride) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const ChannelBlock block = block_of(call, EDGECONV_MOBILE_DEPTHWISE, index);
  const Narrowing narrowing = narrowing_of(call, EDGECONV_MOBILE_DEPTHWISE);
  const Element* const zeros = reinterpret_cast<const Element*>(call.scratch + plan.zeros);
  const Element** const rows = reinterpret_cast<const Element**>(call.scratch + plan.window);
  const int64_t variants = depthwise_variants(shape, Dots::kDepth),
                groups = divide_up(shape.kernel_height, Dots::kDepth);
  const int64_t columns =
      (shape.out_width - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1;
  const int64_t pitch = shape.out_width * y_stride;
  const BlockWeights weights = block_weights(call, EDGECONV_MOBILE_DEPTHWISE, block);
  for (int64_t row = first; row < last; row += variants) {
    const int64_t height = least_of(variants, last - row);
    const int64_t top = row * shape.stride_height - shape.pad_top;
    const int64_t seen =
        (height - 1) * shape.stride_height + shape.kernel_height;  // what no window has, weighs nothing
    for (int64_t i = 0; i < groups * Dots::kDepth; ++i) {
      const int64_t from = top + i * shape.dilation_height;
      rows[i] =
          i >= seen || from < 0 || from >= shape.in_height ? zeros : ring + from % plan.ring_rows * plan.ring_pitch;
    }
    run_depthwise_rows(block.vectors, {rows, groups, shape.kernel_width, shape.stride_width, shape.dilation_width,
                                       columns, reinterpret_cast<Element*>(call.scratch + plan.columns),
                                       y + block.first + (row - first) * pitch, y_stride, pitch, shape.out_width,
                                       height, weights, narrowing});
  }
}

// The projection of `count` positions from `position` on, in blocks [first, last) of channels.
inline void run_pointwise(const Call& call, int64_t item, int64_t position, int64_t count, const Element* middle,
                          int64_t first, int64_t last) {
  const int64_t depth = call.plan->packed[EDGECONV_MOBILE_POINTWISE].depth;
  const DotInput input = {middle, depth, 0, 0, 1, 1, depth / Dots::kDepth};
  for (int64_t index = first; index < last; ++index) {
    const ChannelBlock block = block_of(call, EDGECONV_MOBILE_POINTWISE, index);
    const BlockWeights weights = block_weights(call, EDGECONV_MOBILE_POINTWISE, block);
    const int64_t channels = block_channels(block, call.params->stages[EDGECONV_MOBILE_POINTWISE].shape.out_channels);
    gather_residual(call, item, position, count, block, channels);
    with_result(call, EDGECONV_MOBILE_POINTWISE, item, position, block,
                [&](const auto& store) { run_dots(call.tiles, block.vectors, input, count, weights, store); });
    transpose_result(call, EDGECONV_MOBILE_POINTWISE, item, position, count, block, channels);
  }
}

inline void run_block_rows(const Call& call, int64_t item, int64_t step) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  const EdgeconvQLinearStage* const stages = call.params->stages;
  const EdgeconvConvShape& shape = stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const int64_t row = step * plan.rows, end = least_of(row + plan.rows, shape.out_height);
  Strand& strand = *call.strand;
  const bool goes_on = strand.ready && strand.item == item && strand.step + 1 == step;
  if (!strand.ready) prepare_ring(call);
  const int64_t top = row * shape.stride_height - shape.pad_top;
  const int64_t bottom =
      top + (end - row - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
  const int64_t first = most_of(goes_on ? most_of(strand.row, top) : top, 0);
  const int64_t last = most_of(least_of(bottom, shape.in_height), first);
  strand.ready = 1;
  strand.item = item;
  strand.step = step;
  strand.row = most_of(last, goes_on ? strand.row : 0);

  Element* const rings = reinterpret_cast<Element*>(call.scratch + plan.ring);
  Element* const middle = reinterpret_cast<Element*>(call.scratch + plan.middle);
  const int32_t* const places = find_places(call, first, last);
  InputView view = {};
  if (plan.first == EDGECONV_MOBILE_DENSE && last > first) {
    view = view_input(call, EDGECONV_MOBILE_DENSE, item, first, last);
  }
  const int64_t channels = round_up(shape.out_channels, Dots::kLanes);
  const int64_t blocks = plan.packed[EDGECONV_MOBILE_DEPTHWISE].blocks;
  for (int64_t index = 0; index < blocks; ++index) {
    Element* const ring = rings + index * plan.ring_rows * plan.ring_pitch;
    if (last > first) fill_ring(call, item, view, first, last, index, ring, places);
    run_depthwise(call, index, row, end, ring, middle, channels);
  }
  const int64_t position = row * shape.out_width, count = (end - row) * shape.out_width;
  if (plan.last == EDGECONV_MOBILE_POINTWISE) {
    run_pointwise(call, item, position, count, middle, 0, plan.packed[EDGECONV_MOBILE_POINTWISE].blocks);
  } else {
    copy_activations(call, item, position, count, middle, channels);
  }
}

// Rows of a convolution, in blocks [first, last) of channels.
inline void run_convolution(const Call& call, const InputView& view, int64_t item, int64_t row, int64_t end,
                            int64_t first, int64_t last) {
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DENSE].shape;
  const int64_t position = row * shape.out_width, count = (end - row) * shape.out_width;
  for (int64_t index = first; index < last; ++index) {
    const ChannelBlock block = block_of(call, EDGECONV_MOBILE_DENSE, index);
    const BlockWeights weights = block_weights(call, EDGECONV_MOBILE_DENSE, block);
    with_result(call, EDGECONV_MOBILE_DENSE, item, position, block,
                [&](const auto& store) { run_dense(call, shape, view, block.vectors, end - row, weights, store); });
    transpose_result(call, EDGECONV_MOBILE_DENSE, item, position, count, block,
                     block_channels(block, shape.out_channels));
  }
}

// The input of the dense stage for the whole image, copied at most once.
inline InputView view_image(const Call& call, int64_t item) {
  const bool goes_on = call.strand->ready && call.strand->item == item;
  const int64_t rows = call.params->stages[EDGECONV_MOBILE_DENSE].shape.out_height;
  if (goes_on) return same_view(call, EDGECONV_MOBILE_DENSE, item);
  find_norms(call, item, 0, rows);
  return view_input(call, EDGECONV_MOBILE_DENSE, item, 0, rows);
}

// A block of the results of one convolution.
inline void run_channels_of_convolution(const Call& call, int64_t task) {
  const int64_t blocks = call.plan->packed[EDGECONV_MOBILE_DENSE].blocks, item = task / blocks, block = task % blocks;
  const InputView view = view_image(call, item);
  call.strand->ready = 1;
  call.strand->item = item;
  const int64_t rows = call.params->stages[EDGECONV_MOBILE_DENSE].shape.out_height;
  run_convolution(call, view, item, 0, rows, block, block + 1);
}

// Fetches this task's share of the projection's weights, which the next phase reads once.
inline void prefetch_projection(const Call& call, int64_t task) {
  const EdgeconvMobilePacked& packed = call.plan->packed[EDGECONV_MOBILE_POINTWISE];
  const int64_t bytes = packed.bias - packed.weights;
  const int64_t share = divide_up(bytes, call.plan->packed[EDGECONV_MOBILE_DEPTHWISE].blocks);
  const uint8_t* const weights = static_cast<const uint8_t*>(call.arguments->packed) + packed.weights;
  for (int64_t at = task * share; at < least_of(bytes, (task + 1) * share); at += kLine) {
    __builtin_prefetch(weights + at, 0, 2);
  }
}

inline void run_by_channels(const Call& call, int64_t phase, int64_t task) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  if (plan.last == EDGECONV_MOBILE_DENSE) return run_channels_of_convolution(call, task);
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const int64_t channels = round_up(shape.out_channels, Dots::kLanes), item = phase / 2;
  Element* const middle = static_cast<Element*>(call.arguments->shared);
  if (phase % 2 != 0) {
    const int64_t positions = shape.out_height * shape.out_width, piece = divide_up(positions, plan.pieces);
    const int64_t first = task % plan.pieces * piece, count = least_of(piece, positions - first);
    if (count <= 0) return;
    const int64_t block = task / plan.pieces;
    return run_pointwise(call, item, first, count, middle + first * channels, block, block + 1);
  }
  Strand& strand = *call.strand;
  InputView view = {};
  if (plan.first == EDGECONV_MOBILE_DENSE) view = view_image(call, item);
  if (!strand.ready) {
    prepare_ring(call);
    find_places(call, 0, shape.in_height);
  }
  strand.ready = 1;
  strand.item = item;
  prefetch_projection(call, task);
  Element* const ring = reinterpret_cast<Element*>(call.scratch + plan.ring);
  const int32_t* const places = reinterpret_cast<const int32_t*>(call.scratch + plan.places);
  fill_ring(call, item, view, 0, shape.in_height, task, ring, places);
  run_depthwise(call, task, 0, shape.out_height, ring, middle, channels);
}

void run_task(const EdgeconvQLinearMobileParams* params, const EdgeconvQLinearMobilePlan* plan,
              const EdgeconvQLinearMobileArguments* arguments, int64_t phase, int64_t task, void* scratch) {
  const Call call(params, plan, arguments, scratch);
  if (plan->order == EDGECONV_MOBILE_BY_CHANNELS) return run_by_channels(call, phase, task);
  const int64_t item = task / plan->steps, step = task % plan->steps;
  if (plan->last != EDGECONV_MOBILE_DENSE) return run_block_rows(call, item, step);
  const int64_t row = step * plan->rows, rows = params->stages[EDGECONV_MOBILE_DENSE].shape.out_height;
  const int64_t end = least_of(row + plan->rows, rows);
  const InputView view = view_input(call, EDGECONV_MOBILE_DENSE, item, row, end);
  find_norms(call, item, row, end);
  run_convolution(call, view, item, row, end, 0, plan->packed[EDGECONV_MOBILE_DENSE].blocks);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_KERNEL_H_
