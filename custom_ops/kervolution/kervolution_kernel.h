// The kervolution kernels, once for every instruction set: the file that includes this one names the vector types
// before it (common/simd_baseline.h says which).
//
// Kernels:   one register tile (micro_kernel.h) in three ways to accumulate, and one epilogue for each of the six
//            kernels, all chosen at compile time.
// Launcher:  run_task() computes one block of output positions for one chunk of output channels.
//
// For each block of filter taps the strips of the input (patch_strips.h) are filled, then every tile of positions
// sweeps over the chunk's output channels: its strips stay in L1, the block's weights in L2. After the last block the
// epilogue turns the sums into outputs.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_

#include "common/micro_kernel.h"
#include "common/patch_strips.h"
#include "common/vector_math.h"
#include "kervolution/kervolution.h"

namespace {

constexpr Accumulation accumulation_of(int kernel) {
  return kernel == EDGECONV_MANHATTAN   ? Accumulation::kAbsoluteDifference
         : kernel == EDGECONV_CHEBYSHEV ? Accumulation::kMaximumDifference
                                        : Accumulation::kDotProduct;
}

constexpr bool uses_distance(int kernel) { return kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_EUCLIDEAN; }

// An output channel's values, each in every lane.
struct Channel {
  Simd::Float balance, scale, norm, bias;
  int64_t degree;
};

template <int kernel>
inline Simd::Float epilogue(Simd::Float sum, Simd::Float patch_norm, const Channel& channel) {
  Simd::Float y;
  if (kernel == EDGECONV_POLYNOMIAL) {
    y = integer_power(Simd::add(sum, channel.balance), channel.degree);
  } else if (kernel == EDGECONV_SIGMOID) {
    y = hyperbolic_tangent(Simd::fma(channel.scale, sum, channel.balance));
  } else if (uses_distance(kernel)) {
    const Simd::Float squares = Simd::add(patch_norm, channel.norm);
    // An infinite input is infinitely far, where the formula would subtract infinities; NaN fails the comparison, too.
    const Simd::Float finite = clamp_at_zero(Simd::fma(Simd::set(-2.0f), sum, squares));
    const Simd::Float distance = Simd::select_less(squares, Simd::set(__builtin_inff()), finite, squares);
    const Simd::Float negative = Simd::sub(Simd::zero(), distance);
    y = kernel == EDGECONV_GAUSSIAN ? exponential(Simd::mul(channel.scale, negative)) : negative;
  } else {
    y = Simd::sub(Simd::zero(), sum);
  }
  return Simd::add(y, channel.bias);
}

struct Task {
  const EdgeconvKervolutionParams* params;
  const EdgeconvTiling* tiling;
  const EdgeconvKervolutionArguments* arguments;
  PositionBlock block;
  int64_t item, group;                 // of the batch, of the channels
  int64_t first_channel, last_channel;  // within the group
  float *strips, *sums, *patch_norms;
  int32_t* offsets;
};

inline float value_of(const EdgeconvChannelValues& values, int64_t channel) {
  return values.values[channel * values.stride];
}

template <int kernel, typename Element>
inline Channel load_channel(const Task& task, int64_t channel) {
  const EdgeconvKervolutionArguments& arguments = *task.arguments;
  Channel values = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero(), task.params->degree};
  if (kernel == EDGECONV_POLYNOMIAL || kernel == EDGECONV_SIGMOID) {
    values.balance = Simd::set(value_of(arguments.balance, channel));
  }
  if (kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_SIGMOID) {
    values.scale = Simd::set(value_of(arguments.scale, channel));
  }
  if (uses_distance(kernel)) {
    values.norm = Simd::set(arguments.packed[edgeconv_packed_floats(&task.params->shape, task.tiling) + channel]);
  }
  // -0 leaves every value as it is, 0 would turn -0 into 0.
  values.bias = Simd::set(
      arguments.bias ? element_to_float(static_cast<const Element*>(arguments.bias)[channel]) : -0.0f);
  return values;
}

// Outputs of one tile: channels [channel, channel + rows) of the group at positions [position, position + count).
template <int kernel, typename Element>
void finish_tile(const Task& task, const float* sums, int64_t channel, int64_t rows, int64_t position, int64_t count) {
  const EdgeconvConvShape& shape = task.params->shape;
  const int64_t area = shape.out_height * shape.out_width;
  const int64_t first = task.block.row * shape.out_width + task.block.column + position;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t out_channel = task.group * task.tiling->group_channels + channel + row;
    const Channel values = load_channel<kernel, Element>(task, out_channel);
    Element* y = static_cast<Element*>(task.arguments->y);
    y += (task.item * shape.out_channels + out_channel) * area + first;
    const float* from = sums + row * task.tiling->sum_stride;
    for (int64_t i = 0; i < count; i += Simd::kLanes) {
      const Simd::Float norm = uses_distance(kernel) ? Simd::load(task.patch_norms + position + i) : Simd::zero();
      const Simd::Float result = epilogue<kernel>(Simd::load(from + i), norm, values);
      if (count - i >= Simd::kLanes) {
        Simd::store(y + i, result);
      } else {
        Simd::store_first(y + i, result, static_cast<int>(count - i));
      }
    }
  }
}

// patch_norms += sum over the taps of x^2, for the positions of one tile.
inline void add_squares(const Task& task, const float* strips, int64_t taps, int64_t position, int vectors,
                        bool first) {
  for (int v = 0; v < vectors; ++v) {
    float* to = task.patch_norms + position + v * Simd::kLanes;
    Simd::Float even = first ? Simd::zero() : Simd::load(to);
    Simd::Float odd = Simd::zero();
    int64_t tap = 0;
    for (; tap + 2 <= taps; tap += 2) {
      const Simd::Float a = Simd::load(strips + task.offsets[tap] + v * Simd::kLanes);
      const Simd::Float b = Simd::load(strips + task.offsets[tap + 1] + v * Simd::kLanes);
      even = Simd::fma(a, a, even);
      odd = Simd::fma(b, b, odd);
    }
    if (tap < taps) {
      const Simd::Float a = Simd::load(strips + task.offsets[tap] + v * Simd::kLanes);
      even = Simd::fma(a, a, even);
    }
    Simd::store(to, Simd::add(even, odd));
  }
}

template <int kernel, typename Element>
void run_task(const Task& task) {
  const EdgeconvConvShape& shape = task.params->shape;
  const EdgeconvTiling& tiling = *task.tiling;
  const int64_t positions = task.block.rows * task.block.columns;
  const int64_t group_inputs = shape.in_channels / shape.group;
  const Element* x = static_cast<const Element*>(task.arguments->x) +
                     (task.item * shape.group + task.group) * group_inputs * shape.in_height * shape.in_width;
  for (int64_t first_tap = 0; first_tap < tiling.taps; first_tap += tiling.tap_block) {
    int64_t last_tap = first_tap + tiling.tap_block;
    if (last_tap > tiling.taps) last_tap = tiling.taps;
    const bool whole = tiling.taps <= tiling.tap_block;
    const bool last = last_tap == tiling.taps;
    fill_strips(shape, tiling, task.block, x, first_tap, last_tap, task.strips, task.offsets);
    for (int64_t position = 0; position < positions; position += tiling.tile_positions) {
      int64_t count = positions - position;
      if (count > tiling.tile_positions) count = tiling.tile_positions;
      const int vectors = static_cast<int>((count + Simd::kLanes - 1) / Simd::kLanes);
      const float* strips = task.strips + position;
      if (uses_distance(kernel)) {
        add_squares(task, strips, last_tap - first_tap, position, vectors, first_tap == 0);
      }
      for (int64_t channel = task.first_channel; channel < task.last_channel; channel += kRows) {
        int64_t rows = tiling.group_channels - channel;
        if (rows > kRows) rows = kRows;
        float* sums = whole ? task.sums : task.sums + (channel - task.first_channel) * tiling.sum_stride + position;
        const float* weights =
            task.arguments->packed + edgeconv_packed_offset(&tiling, task.group, first_tap, channel);
        run_tile<accumulation_of(kernel)>(TileOperands{strips, task.offsets, weights, last_tap - first_tap, sums,
                                                       tiling.sum_stride, first_tap == 0},
                                          rows, count);
        if (last) finish_tile<kernel, Element>(task, sums, channel, rows, position, count);
      }
    }
  }
}

template <int kernel>
void run_task(const Task& task) {
  if (task.params->element_type == EDGECONV_FLOAT16) return run_task<kernel, uint16_t>(task);
  run_task<kernel, float>(task);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void run_task(const EdgeconvKervolutionParams* params, const EdgeconvTiling* tiling,
              const EdgeconvKervolutionArguments* arguments, int64_t index, void* scratch) {
  // Blocks of positions vary fastest: a thread that runs tasks in order keeps its channels' weights in the cache.
  const EdgeconvConvShape& shape = params->shape;
  Task task = {};
  task.params = params;
  task.tiling = tiling;
  task.arguments = arguments;
  task.block.column = index % tiling->column_blocks * tiling->block_columns;
  task.block.columns = smaller(tiling->block_columns, shape.out_width - task.block.column);
  index /= tiling->column_blocks;
  task.block.row = index % tiling->row_blocks * tiling->block_rows;
  task.block.rows = smaller(tiling->block_rows, shape.out_height - task.block.row);
  index /= tiling->row_blocks;
  task.first_channel = index % tiling->chunks * tiling->channel_chunk;
  task.last_channel = smaller(tiling->group_channels, task.first_channel + tiling->channel_chunk);
  index /= tiling->chunks;
  task.group = index % shape.group;
  task.item = index / shape.group;

  task.strips = static_cast<float*>(scratch);
  task.sums = task.strips + (tiling->strip_floats + 15) / 16 * 16;
  task.patch_norms = task.sums + (tiling->sum_floats + 15) / 16 * 16;
  const int64_t positions = tiling->block_rows * tiling->block_columns + tiling->tile_positions;
  task.offsets = reinterpret_cast<int32_t*>(task.patch_norms + (positions + 15) / 16 * 16);

  switch (params->kernel) {
    case EDGECONV_POLYNOMIAL: return run_task<EDGECONV_POLYNOMIAL>(task);
    case EDGECONV_GAUSSIAN: return run_task<EDGECONV_GAUSSIAN>(task);
    case EDGECONV_SIGMOID: return run_task<EDGECONV_SIGMOID>(task);
    case EDGECONV_EUCLIDEAN: return run_task<EDGECONV_EUCLIDEAN>(task);
    case EDGECONV_MANHATTAN: return run_task<EDGECONV_MANHATTAN>(task);
    default: return run_task<EDGECONV_CHEBYSHEV>(task);
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_KERNEL_H_
