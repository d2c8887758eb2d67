// Launch functions: dispatch on the instruction set, the form of the sums, packing, loops over tasks. The arithmetic is
// in qlinear_kervolution_kernel.h, compiled once for each instruction set.
#include <algorithm>
#include <cstdlib>
#include <limits>

#include "common/byte_vectors.h"
#include "qlinear_kervolution/qlinear_kervolution.h"

namespace {

// The best of this operator's files up to `isa`.
const EdgeconvQLinearKervolutionIsa* find_isa(int isa) {
  if (isa < EDGECONV_ISA_BASELINE || isa > edgeconv_best_isa()) return nullptr;
#ifdef __aarch64__
  if (isa >= EDGECONV_ISA_NEON_DOTPROD) return &edgeconv_qlinear_kervolution_neon_dotprod;
  if (isa >= EDGECONV_ISA_NEON) return &edgeconv_qlinear_kervolution_neon;
#elif defined(__x86_64__)
  if (isa >= EDGECONV_ISA_AVX512_VNNI) return &edgeconv_qlinear_kervolution_avx512_vnni;
  if (isa >= EDGECONV_ISA_AVX512) return &edgeconv_qlinear_kervolution_avx512;
  if (isa >= EDGECONV_ISA_AVX2) return &edgeconv_qlinear_kervolution_avx2;
#endif
  return &edgeconv_qlinear_kervolution_baseline;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kRowsBytes = 1 << 13;      // of depthwise blocks, where they can be so small
constexpr int64_t kMostRowsBytes = 1 << 16;  // for one row of outputs
constexpr int64_t kLeastColumns = 64;

// Columns of the padded input that a block of `columns` sees, by phase of the stride.
int64_t depthwise_pitch(const EdgeconvConvShape& shape, int64_t columns) {
  return columns + (shape.kernel_width - 1) * shape.dilation_width / shape.stride_width;
}

// Bytes of the padded input for `rows` rows of outputs.
int64_t depthwise_bytes(const EdgeconvConvShape& shape, int64_t rows, int64_t columns) {
  const int64_t reach = (shape.kernel_height - 1) * shape.dilation_height / shape.stride_height;
  return shape.stride_height * shape.stride_width * (rows + reach) * depthwise_pitch(shape, columns);
}

// Filters of one channel: few enough of them for each that there is little to share, few enough taps for 16 bits, and
// near enough together.
bool fits_depthwise(const EdgeconvConvShape& shape) {
  constexpr int64_t kMostFilters = 4, kMostTaps = 0xffff / 255, kFarthest = 1 << 12;
  if (shape.in_channels != shape.group || shape.out_channels / shape.group > kMostFilters) return false;
  for (int64_t size : {shape.kernel_height * shape.dilation_height, shape.kernel_width * shape.dilation_width,
                       shape.stride_height, shape.stride_width}) {
    if (size > kFarthest) return false;
  }
  return shape.kernel_height * shape.kernel_width <= kMostTaps &&
         depthwise_bytes(shape, 1, kLeastColumns) <= kMostRowsBytes;
}

// Blocks of whole rows if one fits, else pieces of a row.
void cut_depthwise(const EdgeconvConvShape& shape, const EdgeconvTileSize& size, EdgeconvQLinearKervolutionPlan* plan) {
  const int64_t row_bytes = depthwise_bytes(shape, 2, shape.out_width) - depthwise_bytes(shape, 1, shape.out_width);
  int64_t rows = 1, columns = shape.out_width;
  while (columns > kLeastColumns && depthwise_bytes(shape, 1, columns) > kMostRowsBytes) {
    columns = std::max(kLeastColumns, divide_up(columns, 2 * kLeastColumns) * kLeastColumns);
  }
  if (columns == shape.out_width) {
    const int64_t most = 1 + (kRowsBytes - depthwise_bytes(shape, 1, columns)) / row_bytes;
    const int64_t blocks = divide_up(shape.out_height, std::clamp<int64_t>(most, 1, shape.out_height));
    rows = divide_up(shape.out_height, blocks);
  }
  plan->pitch = depthwise_pitch(shape, columns);
  edgeconv_cut_blocks(&shape, &size, rows, columns, kLeastChunk, &plan->tiling);
}

// Where the bytes are, and the shape in elements: with the layout that leaves fewer bytes empty.
void choose_layout(const EdgeconvConvShape& shape, int64_t bytes, EdgeconvQLinearKervolutionPlan* plan) {
  const int64_t depth = shape.in_channels / shape.group;
  const int64_t channels = divide_up(depth, bytes), columns = divide_up(shape.kernel_width, bytes);
  plan->elements = shape;
  plan->element_bytes = bytes;
  if (fits_depthwise(shape)) {
    plan->layout = EDGECONV_DEPTHWISE_BYTES;
    plan->element_bytes = 1;
  } else if (depth * columns < channels * shape.kernel_width) {
    plan->layout = EDGECONV_COLUMN_BYTES;
    plan->elements.kernel_width = columns;
    plan->elements.dilation_width = bytes * shape.dilation_width;
  } else {
    plan->layout = EDGECONV_CHANNEL_BYTES;
    plan->elements.in_channels = shape.group * channels;
  }
}

int byte_value(int32_t type, const void* values, int64_t index) {
  return type == EDGECONV_INT8 ? static_cast<const int8_t*>(values)[index] : static_cast<const uint8_t*>(values)[index];
}

// Where the byte `b` of element `tap` of a filter comes from; -1: from nowhere.
int64_t source_of(const EdgeconvConvShape& shape, const EdgeconvQLinearKervolutionPlan& plan, int64_t tap, int64_t b) {
  const int64_t width = plan.elements.kernel_width, area = shape.kernel_height * width;
  int64_t channel = tap / area, column = tap % width;
  const int64_t row = tap % area / width;
  if (plan.layout == EDGECONV_COLUMN_BYTES) {
    column = column * plan.element_bytes + b;
  } else {
    channel = channel * plan.element_bytes + b;
  }
  if (channel >= shape.in_channels / shape.group || column >= shape.kernel_width) return -1;
  return (channel * shape.kernel_height + row) * shape.kernel_width + column;
}

// Calls put(index in the packed filters, filter) for every filter that has an element `tap`, after begin(tap).
template <typename Begin, typename Put>
void for_each_element(const EdgeconvTiling& tiling, int64_t groups, const Begin& begin, const Put& put) {
  for (int64_t first = 0; first < tiling.taps; first += tiling.tap_block) {
    const int64_t last = std::min(tiling.taps, first + tiling.tap_block);
    for (int64_t tap = first; tap < last; ++tap) {
      begin(tap);
      for (int64_t filter = 0; filter < groups * tiling.group_channels; ++filter) {
        const int64_t channel = filter % tiling.group_channels, row = channel % tiling.tile_rows;
        const size_t tile = edgeconv_packed_offset(&tiling, filter / tiling.group_channels, first, channel - row);
        put(static_cast<int64_t>(tile) + (tap - first) * tiling.tile_rows + row, filter);
      }
    }
  }
}

// The filters in the input's steps and in its unsigned domain, cut to [0, 255]. As x is never outside, the cut takes
// the same from |x - w| for every x: that, and what else is to be added to a channel's sums, is the channel's constant.
void pack_integers(const EdgeconvQLinearKervolutionParams& params, bool sums_of_maxima,
                   const EdgeconvQLinearKervolutionPlan& plan, const EdgeconvQLinearFilters& filters, uint8_t* packed) {
  const EdgeconvConvShape& shape = params.shape;
  const int64_t taps = shape.in_channels / shape.group * shape.kernel_height * shape.kernel_width;
  const int zero = params.x_zero_point + (params.x_type == EDGECONV_INT8 ? 128 : 0);
  uint32_t* const constants = reinterpret_cast<uint32_t*>(packed + plan.filter_bytes);
  std::fill(packed, packed + plan.filter_bytes, uint8_t{0});
  std::fill(constants, constants + shape.out_channels, 0u);
  const auto keep = [&](int64_t filter, int64_t source, uint8_t* to) {
    const int shift = zero - byte_value(params.w_type, filters.zero_point, filter * filters.zero_point_stride);
    const int weight = byte_value(params.w_type, filters.w, filter * taps + source) + shift;
    const int kept = std::clamp(weight, 0, 255);
    *to = static_cast<uint8_t>(kept);
    constants[filter] += static_cast<uint32_t>(std::abs(weight - kept) - (sums_of_maxima ? kept : 0));
  };
  if (plan.layout == EDGECONV_DEPTHWISE_BYTES) {
    sums_of_maxima = false;
    for (int64_t filter = 0; filter < shape.out_channels; ++filter) {
      for (int64_t tap = 0; tap < taps; ++tap) keep(filter, tap, packed + filter * taps + tap);
    }
    return;
  }
  int64_t sources[8];
  const auto find_sources = [&](int64_t tap) {
    for (int64_t b = 0; b < plan.element_bytes; ++b) sources[b] = source_of(shape, plan, tap, b);
  };
  for_each_element(plan.tiling, shape.group, find_sources, [&](int64_t index, int64_t filter) {
    for (int64_t b = 0; b < plan.element_bytes; ++b) {
      if (sources[b] >= 0) keep(filter, sources[b], packed + index * plan.element_bytes + b);
    }
  });
}

void pack_floats(const EdgeconvQLinearKervolutionParams& params, const EdgeconvQLinearKervolutionPlan& plan,
                 const EdgeconvQLinearFilters& filters, float* packed) {
  float* const x_values = packed + plan.filter_bytes / static_cast<int64_t>(sizeof(float));
  std::fill(packed, x_values, 0.0f);
  int64_t tap = 0;
  for_each_element(
      plan.tiling, params.shape.group, [&](int64_t now) { tap = now; },
      [&](int64_t index, int64_t filter) {
        const int zero = byte_value(params.w_type, filters.zero_point, filter * filters.zero_point_stride);
        const int steps = byte_value(params.w_type, filters.w, filter * plan.tiling.taps + tap) - zero;
        packed[index] = static_cast<float>(steps) * filters.scale[filter * filters.scale_stride];
      });
  for (int byte = 0; byte < 256; ++byte) {
    const int value = params.x_type == EDGECONV_INT8 ? static_cast<int8_t>(byte) : byte;
    x_values[byte] = static_cast<float>(value - params.x_zero_point) * params.x_scale;
  }
}

}  // namespace

extern "C" {

int edgeconv_qlinear_kervolution_sums(float x_scale, const float* w_scale, int64_t scale_stride, int64_t filters) {
  for (int64_t filter = 0; filter < filters; ++filter) {
    if (w_scale[filter * scale_stride] != x_scale) return EDGECONV_FLOAT_SUMS;
  }
  return EDGECONV_INTEGER_SUMS;
}

int edgeconv_qlinear_kervolution_plan(const EdgeconvQLinearKervolutionParams* params, int isa,
                                      EdgeconvQLinearKervolutionPlan* plan, EdgeconvStatus* status) {
  const EdgeconvQLinearKervolutionIsa* kernels = find_isa(isa);
  if (kernels == nullptr) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "this CPU does not have the instruction set '%s'",
                               edgeconv_isa_name(isa));
  }
  const EdgeconvConvShape& shape = params->shape;
  *plan = {};
  if (params->sums == EDGECONV_INTEGER_SUMS) {
    constexpr int64_t kLargest = 510;  // of one difference
    const int64_t area = shape.kernel_height * shape.kernel_width, depth = shape.in_channels / shape.group;
    constexpr int64_t kMostTaps = std::numeric_limits<int32_t>::max() / kLargest;
    if (area > kMostTaps || depth > kMostTaps / area) {
      return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT,
                                 "W has shape (%lld, %lld, %lld, %lld): a filter of more than %lld taps may overflow "
                                 "the 32 bits of its sum",
                                 static_cast<long long>(shape.out_channels), static_cast<long long>(depth),
                                 static_cast<long long>(shape.kernel_height),
                                 static_cast<long long>(shape.kernel_width), static_cast<long long>(kMostTaps));
    }
    choose_layout(shape, kernels->element_bytes, plan);
  } else {
    plan->elements = shape;
    plan->element_bytes = sizeof(float);
  }
  constexpr int64_t kWord = 4;
  const bool complete = shape.out_height > 0, depthwise = plan->layout == EDGECONV_DEPTHWISE_BYTES;
  const EdgeconvTiling& tiling = plan->tiling;
  if (depthwise) {
    edgeconv_filter_tiling(&shape, &kernels->tile, &plan->tiling);
    if (complete) cut_depthwise(shape, kernels->tile, plan);
    plan->filter_bytes = divide_up(shape.out_channels * tiling.taps, kWord) * kWord;
  } else {
    const auto cut = complete ? edgeconv_element_tiling : edgeconv_element_filter_tiling;
    cut(&plan->elements, &kernels->tile, plan->element_bytes / kWord, &plan->tiling);
    plan->filter_bytes = static_cast<int64_t>(edgeconv_packed_floats(&plan->elements, &tiling)) * plan->element_bytes;
  }
  if (complete) {
    int64_t place = 0;
    const auto reserve = [&place](int64_t bytes) {
      const int64_t at = place;
      place = divide_up(place + bytes, 64) * 64;
      return at;
    };
    const bool integers = params->sums == EDGECONV_INTEGER_SUMS;
    if (depthwise) {
      reserve(depthwise_bytes(shape, tiling.block_rows, tiling.block_columns) + EDGECONV_DEPTHWISE_SLACK);
      plan->sums = reserve((tiling.block_rows * plan->pitch + EDGECONV_DEPTHWISE_SLACK) * kWord);
      plan->offsets = reserve(tiling.taps * kWord);
    } else {
      const int64_t positions = tiling.block_rows * tiling.block_columns;
      reserve(tiling.strip_floats * plan->element_bytes);
      plan->sums = reserve(tiling.sum_floats * kWord);
      plan->patch_sums = reserve((positions + kernels->tile.positions + kernels->tile.lanes) * kWord);
      plan->offsets = reserve(tiling.tap_block * kWord);
      plan->line = reserve(integers ? kLineBytes + kLineSlack : 0);
    }
    plan->scratch_bytes = place;
  }
  return status->code = EDGECONV_OK;
}

size_t edgeconv_qlinear_kervolution_packed_bytes(const EdgeconvQLinearKervolutionParams* params,
                                                 const EdgeconvQLinearKervolutionPlan* plan) {
  const int64_t values = params->sums == EDGECONV_INTEGER_SUMS ? params->shape.out_channels : 256;
  return static_cast<size_t>(plan->filter_bytes + values * 4);
}

void edgeconv_qlinear_kervolution_pack(const EdgeconvQLinearKervolutionParams* params, int isa,
                                       const EdgeconvQLinearKervolutionPlan* plan,
                                       const EdgeconvQLinearFilters* filters, void* packed) {
  if (params->sums == EDGECONV_INTEGER_SUMS) {
    const bool maxima = find_isa(isa)->sums_of_maxima != 0;
    pack_integers(*params, maxima, *plan, *filters, static_cast<uint8_t*>(packed));
  } else {
    pack_floats(*params, *plan, *filters, static_cast<float*>(packed));
  }
}

size_t edgeconv_qlinear_kervolution_scratch_bytes(const EdgeconvQLinearKervolutionPlan* plan) {
  return static_cast<size_t>(plan->scratch_bytes);
}

void edgeconv_qlinear_kervolution_run(const EdgeconvQLinearKervolutionParams* params, int isa,
                                      const EdgeconvQLinearKervolutionPlan* plan,
                                      const EdgeconvQLinearKervolutionArguments* arguments, int64_t first, int64_t last,
                                      void* scratch) {
  const EdgeconvQLinearKervolutionIsa* kernels = find_isa(isa);
  for (int64_t task = first; kernels != nullptr && task < last; ++task) {
    kernels->run(params, plan, arguments, task, scratch);
  }
}

}  // extern "C"
