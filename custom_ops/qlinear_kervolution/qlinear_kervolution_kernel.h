// The kernels, once for every instruction set: the file that includes this one names the types Simd, RowSimd, Ints,
// Words, Bytes and kTileVectors before it (common/simd_baseline.h, ints_baseline.h and byte_vectors.h say what they
// are), and the arithmetic of the register tile:
//
//   ByteDifferences<V>  sums |x - w|, or max(x, w) where kSumsOfMaxima, over the bytes of its Element
//
// Kernels:   the direct algorithm of kervolution_direct.h on elements of four or eight bytes (common/byte_strips.h), or
//            on floats; a depthwise one (qlinear_kervolution_depthwise.h); one requantising epilogue
//            (qlinear_kervolution_epilogue.h).
// Launcher:  run_task() computes one block of output positions for one chunk of output channels.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_KERNEL_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_KERNEL_H_

#include "common/micro_kernel.h"
#include "qlinear_kervolution/qlinear_kervolution_depthwise.h"

namespace {

// A tile's outputs: row r of it begins at y + r * stride.
struct TileOutputs {
  uint8_t* y;
  int64_t stride, channel, rows, position, count;

  // They are written once, at many places: without this each first write to a cache line waits for it.
  void prefetch() const {
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* const from = y + row * stride;
      __builtin_prefetch(from, 1);
      for (int64_t i = 64; i < count; i += 64) __builtin_prefetch(from + i, 1);
    }
  }
};

// For each block of taps the strips are filled by lay(first tap, last tap, strips, offsets), then every tile of
// positions sweeps over the chunk's channels; finish(sums, outputs) makes a tile's outputs.
template <template <typename> class Arithmetic, typename Lay, typename Finish>
void run_direct(const Task& task, const Lay& lay, const Finish& finish) {
  typedef typename Arithmetic<Simd>::Element Element;
  typedef typename Arithmetic<Simd>::Sum Sum;
  const EdgeconvTiling& tiling = task.plan->tiling;
  const int64_t positions = task.block.rows * task.block.columns;
  Element* const strips = reinterpret_cast<Element*>(task.scratch);
  int32_t* const offsets = reinterpret_cast<int32_t*>(task.scratch + task.plan->offsets);
  const int64_t plane = task.params->shape.out_height * task.params->shape.out_width;
  uint8_t* const y = output_of(task, 0);
  const bool whole = tiling.taps <= tiling.tap_block;
  for (int64_t first_tap = 0; first_tap < tiling.taps; first_tap += tiling.tap_block) {
    int64_t last_tap = first_tap + tiling.tap_block;
    if (last_tap > tiling.taps) last_tap = tiling.taps;
    const bool last = last_tap == tiling.taps;
    lay(first_tap, last_tap, strips, offsets);
    int64_t count = 0;
    for (int64_t position = 0; position < positions; position += count) {
      count = tile_count(positions - position);
      for (int64_t channel = task.first_channel; channel < task.last_channel; channel += kRows) {
        int64_t rows = tiling.group_channels - channel;
        if (rows > kRows) rows = kRows;
        Sum* sums = reinterpret_cast<Sum*>(task.scratch + task.plan->sums);
        if (!whole) sums += (channel - task.first_channel) * tiling.sum_stride + position;
        const Element* weights = static_cast<const Element*>(task.arguments->packed) +
                                 edgeconv_packed_offset(&tiling, task.group, first_tap, channel);
        const TileOutputs outputs = {y + channel * plane + position, plane, channel, rows, position, count};
        if (last) outputs.prefetch();
        run_tile<Arithmetic>(
            {strips + position, offsets, weights, last_tap - first_tap, sums, tiling.sum_stride, first_tap == 0}, rows,
            count);
        if (last) finish(sums, outputs);
      }
    }
  }
}

// Adds the sums of `taps` taps at a few vectors of positions to what earlier blocks of taps have left there.
template <template <typename> class Arithmetic, int vectors>
inline void add_patch_vectors(const typename Arithmetic<Simd>::Element* strips, const int32_t* offsets, int64_t taps,
                              bool first, int32_t* sums) {
  typedef Arithmetic<Simd> A;
  const A arithmetic;
  typename A::Vector sum[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) sum[v] = A::zero();
  for (int64_t tap = 0; tap < taps; ++tap) {
    const typename A::Element* from = strips + offsets[tap];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sum[v] = arithmetic.accumulate(sum[v], A::load(from + v * Simd::kLanes), A::zero());
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    int32_t* const to = sums + v * Simd::kLanes;
    A::store(to, first ? sum[v] : A::combine(A::load(to), sum[v]));
  }
}

// Of all `positions`: the sum of the patch, for forms that the sum of max(x, w) is only a part of.
template <template <typename> class Arithmetic>
__attribute__((noinline)) void add_patch_sums(const typename Arithmetic<Simd>::Element* strips, const int32_t* offsets,
                                              int64_t taps, int64_t positions, bool first, int32_t* sums) {
  constexpr int kVectors = 4;  // as many additions are under way
  int64_t position = 0;
  for (; position + (kVectors - 1) * Simd::kLanes < positions; position += kVectors * Simd::kLanes) {
    add_patch_vectors<Arithmetic, kVectors>(strips + position, offsets, taps, first, sums + position);
  }
  for (; position < positions; position += Simd::kLanes) {
    add_patch_vectors<Arithmetic, 1>(strips + position, offsets, taps, first, sums + position);
  }
}

template <template <typename> class Arithmetic>
void run_integers(const Task& task) {
  typedef Arithmetic<Simd> A;
  typedef typename A::Element Element;
  constexpr bool kMaxima = A::kSumsOfMaxima;
  const EdgeconvQLinearKervolutionParams& params = *task.params;
  const EdgeconvQLinearKervolutionPlan& plan = *task.plan;
  const EdgeconvConvShape& shape = params.shape;
  const ByteInput input = byte_input(task);
  int32_t* const patch_sums = reinterpret_cast<int32_t*>(task.scratch + plan.patch_sums);
  const int32_t* const constants = channel_constants(task);

  const auto lay = [&](int64_t first_tap, int64_t last_tap, Element* strips, int32_t* offsets) {
    if (plan.layout == EDGECONV_CHANNEL_BYTES) {
      const ChannelSource<Element> source{shape, task.block, input};
      lay_strips(plan.elements, plan.tiling, task.block, source, first_tap, last_tap, strips, offsets);
    } else {
      const ColumnSource<Element> source{shape, task.block, input};
      lay_strips(plan.elements, plan.tiling, task.block, source, first_tap, last_tap, strips, offsets);
    }
    if (kMaxima) {
      add_patch_sums<Arithmetic>(strips, offsets, last_tap - first_tap, task.block.rows * task.block.columns,
                                 first_tap == 0, patch_sums);
    }
  };
  const Quantizer quantizer(task);
  const int64_t first = channel_index(task, 0);
  const auto finish = [&](const int32_t* sums, const TileOutputs& outputs) {
    for (int64_t row = 0; row < outputs.rows; ++row) {
      const int64_t channel = first + outputs.channel + row;
      finish_row<kMaxima>(quantizer, sums + row * plan.tiling.sum_stride, patch_sums + outputs.position,
                          constants[channel], quantizer.bias_of(channel), outputs.count,
                          outputs.y + row * outputs.stride);
    }
  };
  run_direct<Arithmetic>(task, lay, finish);
}

// A group's input as real numbers, and zeros in the padding.
struct RealSource {
  const EdgeconvConvShape& shape;
  const PositionBlock& block;
  const uint8_t* x;
  const float* values;  // what a byte stands for

  void fill(int64_t channel, const InputRows& rows, int64_t tap, int64_t taps, float* to) const {
    const uint8_t* plane = x + channel * shape.in_height * shape.in_width;
    for (int64_t j = tap; j < tap + taps; ++j) {
      const RowSpan span(shape.in_width, block.column * shape.stride_width - shape.pad_left + j * shape.dilation_width,
                         shape.stride_width, block.columns);
      for (int64_t r = 0; r < rows.count; ++r, to += block.columns) {
        const int64_t row = rows.first + r * rows.step;
        if (row < 0 || row >= shape.in_height) {
          fill_zeros(to, block.columns);
          continue;
        }
        const uint8_t* from = plane + row * shape.in_width + span.first;
        fill_zeros(to, span.begin);
        for (int64_t i = span.begin; i < span.end; ++i) to[i] = values[from[i * span.stride]];
        fill_zeros(to + span.end, span.columns - span.end);
      }
    }
  }
};

template <template <typename> class Arithmetic>
void run_floats(const Task& task) {
  const EdgeconvQLinearKervolutionPlan& plan = *task.plan;
  const float* const values = static_cast<const float*>(task.arguments->packed) + plan.filter_bytes / 4;
  const RealSource source{task.params->shape, task.block, group_input(task), values};
  const auto lay = [&](int64_t first_tap, int64_t last_tap, float* strips, int32_t* offsets) {
    lay_strips(plan.elements, plan.tiling, task.block, source, first_tap, last_tap, strips, offsets);
  };
  const Quantizer quantizer(task);
  const int64_t first = channel_index(task, 0);
  const auto finish = [&](const float* sums, const TileOutputs& outputs) {
    for (int64_t row = 0; row < outputs.rows; ++row) {
      const Simd::Float bias = quantizer.bias_of(first + outputs.channel + row);
      const float* const from = sums + row * plan.tiling.sum_stride;
      for (int64_t i = 0; i < outputs.count; i += Simd::kLanes) {
        quantizer.store(Simd::sub(Simd::zero(), Simd::load(from + i)), bias, outputs.count - i,
                        outputs.y + row * outputs.stride + i);
      }
    }
  };
  run_direct<Arithmetic>(task, lay, finish);
}

void run_task(const EdgeconvQLinearKervolutionParams* params, const EdgeconvQLinearKervolutionPlan* plan,
              const EdgeconvQLinearKervolutionArguments* arguments, int64_t index, void* scratch) {
  Task task = {};
  static_cast<TaskPlace&>(task) = task_place(params->shape, plan->tiling, 1, index);
  task.params = params;
  task.plan = plan;
  task.arguments = arguments;
  task.scratch = static_cast<uint8_t*>(scratch);
  if (params->sums == EDGECONV_FLOAT_SUMS) return run_floats<AbsoluteDifference>(task);
  if (plan->layout == EDGECONV_DEPTHWISE_BYTES) return run_depthwise(task);
  run_integers<ByteDifferences>(task);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_KERNEL_H_
