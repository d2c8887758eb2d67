// Launch functions: dispatch on the instruction set, choice of the algorithm, packing, loops over tasks. The arithmetic
// is in kervolution_kernel.h, compiled once for each instruction set.
#include <algorithm>
#include <cmath>

#include "common/bf16x3_packing.h"
#include "common/float16.h"
#include "common/winograd_packing.h"
#include "kervolution/kervolution.h"

namespace {

// The best of this operator's files up to `isa`.
const EdgeconvKervolutionIsa* find_isa(int isa) {
  if (isa < EDGECONV_ISA_BASELINE || isa > edgeconv_best_isa()) return nullptr;
#ifdef __aarch64__
  if (isa >= EDGECONV_ISA_NEON) return &edgeconv_kervolution_neon;
#elif defined(__x86_64__)
  if (isa >= EDGECONV_ISA_AVX512) return &edgeconv_kervolution_avx512;
  if (isa >= EDGECONV_ISA_AVX2) return &edgeconv_kervolution_avx2;
#endif
  return &edgeconv_kervolution_baseline;
}

bool is_product(int kernel) { return kernel != EDGECONV_MANHATTAN && kernel != EDGECONV_CHEBYSHEV; }

// Whether kervolution_amx.cc computes what `params` allow to be computed in bf16x3.
bool takes_bf16x3([[maybe_unused]] const EdgeconvKervolutionParams& params, [[maybe_unused]] int isa) {
#ifdef EDGECONV_HAVE_AMX
  return isa >= EDGECONV_ISA_AMX && params.precision == EDGECONV_BF16X3 && is_product(params.kernel) &&
         edgeconv_bf16x3_fits(&params.shape);
#else
  return false;
#endif
}

// Who runs the tasks of a plan that was made for `isa`.
const EdgeconvKervolutionIsa* find_runner(int isa, [[maybe_unused]] const EdgeconvKervolutionPlan& plan) {
#ifdef EDGECONV_HAVE_AMX
  if (plan.algorithm == EDGECONV_BF16X3_TILES && isa <= edgeconv_best_isa()) return &edgeconv_kervolution_amx;
#endif
  return find_isa(isa);
}

int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

int choose_packing(const EdgeconvKervolutionParams& params, int isa) {
  // With more filters for a channel the direct algorithm shares more loads than it wastes on unfolding.
  constexpr int64_t kMostFilters = 4;
  constexpr int64_t kMostTaps = 49;  // 7 x 7: what the direct algorithm would unfold, if it must, fits into its scratch
  const EdgeconvConvShape& shape = params.shape;
  const bool is_depthwise = shape.in_channels == shape.group && shape.out_channels / shape.group <= kMostFilters;
  if (is_depthwise && shape.kernel_height * shape.kernel_width <= kMostTaps) return EDGECONV_DEPTHWISE;
  if (takes_bf16x3(params, isa)) return EDGECONV_BF16X3_TILES;
  return is_product(params.kernel) && edgeconv_winograd_fits(&shape) ? EDGECONV_WINOGRAD : EDGECONV_DIRECT;
}

size_t filter_floats(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionPlan& plan) {
  switch (plan.packing) {
    case EDGECONV_WINOGRAD: return edgeconv_winograd_floats(&params.shape, plan.tiling.padded_channels);
    case EDGECONV_DEPTHWISE: return static_cast<size_t>(params.shape.out_channels * plan.tiling.taps);
    case EDGECONV_BF16X3_TILES: return edgeconv_bf16x3_floats(&params.shape, plan.block_pairs);
    default: return edgeconv_packed_floats(&params.shape, &plan.tiling);
  }
}

// Blocks of whole rows of tiles if they fit into kTileFloats, both as transformed inputs and as outputs.
void cut_winograd(const EdgeconvConvShape& shape, const EdgeconvTileSize& size, EdgeconvTiling* tiling) {
  constexpr int64_t kTileFloats = 1 << 14;   // times four, for a row of the transform: 256 KiB
  constexpr int64_t kMostOutputs = 256;      // channels a task
  constexpr int64_t kLeastTransformed = 64;  // … at least: transforms cost less than strips
  const int64_t channels = std::max(shape.in_channels / shape.group, std::min(tiling->padded_channels, kMostOutputs));
  const int64_t most = std::max(size.lanes, kTileFloats / channels);
  const int64_t tile_rows = (shape.out_height + 1) / 2, tile_columns = (shape.out_width + 1) / 2;
  if (tile_columns > most) {
    const int64_t pieces = (tile_columns + most - 1) / most;
    const int64_t columns = round_up((tile_columns + pieces - 1) / pieces, size.lanes);
    edgeconv_cut_blocks(&shape, &size, std::min<int64_t>(2, shape.out_height), std::min(2 * columns, shape.out_width),
                        kLeastTransformed, tiling);
  } else {
    const int64_t blocks = (tile_rows * tile_columns + most - 1) / most;
    const int64_t rows = (tile_rows + blocks - 1) / blocks;
    edgeconv_cut_blocks(&shape, &size, std::min(2 * rows, shape.out_height), shape.out_width, kLeastTransformed,
                        tiling);
  }
}

// Blocks of whole rows of one channel that stay in L1, and as many groups a task as are worth a call; false if the rows
// of one output row already are too many.
bool cut_depthwise(const EdgeconvConvShape& shape, const EdgeconvTileSize& size, EdgeconvKervolutionPlan* plan) {
  constexpr int64_t kBest = 1 << 12, kMost = 1 << 17;  // floats of the rows
  constexpr int64_t kTaskWork = 1 << 18;               // multiply-adds
  const int64_t phases = shape.stride_height * shape.stride_width;
  const int64_t reach = (shape.kernel_height - 1) * shape.dilation_height / shape.stride_height;
  plan->pitch = shape.out_width + (shape.kernel_width - 1) * shape.dilation_width / shape.stride_width;
  if ((reach + 1) * plan->pitch * phases > kMost || shape.out_width > kMost / 2) return false;
  const int64_t rows = std::max<int64_t>(1, kBest / (plan->pitch * phases) - reach);
  const int64_t blocks = (shape.out_height - 1) / rows + 1;
  EdgeconvTiling& tiling = plan->tiling;
  edgeconv_cut_blocks(&shape, &size, (shape.out_height + blocks - 1) / blocks, shape.out_width, kLeastChunk, &tiling);
  plan->plane = (tiling.block_rows + reach) * plan->pitch;
  const int64_t work = tiling.block_rows * tiling.block_columns * tiling.group_channels * tiling.taps;
  plan->group_chunk = std::min(shape.group, 1 + kTaskWork / std::max<int64_t>(1, work));
  tiling.tasks = shape.batch * tiling.row_blocks * ((shape.group + plan->group_chunk - 1) / plan->group_chunk);
  tiling.tasks_per_call = 1;
  return true;
}

// Fills in how the work is cut and where everything is in the scratch.
void complete_plan(const EdgeconvKervolutionParams& params, const EdgeconvTileSize& size,
                   EdgeconvKervolutionPlan* plan) {
  const EdgeconvConvShape& shape = params.shape;
  EdgeconvTiling& tiling = plan->tiling;
  plan->algorithm = plan->packing;
  plan->group_chunk = 1;
  int64_t head = 0, sums = 0, outputs = 0, work = 0;
  if (plan->algorithm == EDGECONV_DEPTHWISE) {
    constexpr int64_t kVectors = 4;  // what the last step may write or read beyond (kRowVectors)
    if (cut_depthwise(shape, size, plan)) {
      head = plan->plane * shape.stride_height * shape.stride_width + 2 * kVectors * size.lanes;
      sums = tiling.block_rows * plan->pitch + kVectors * size.lanes;
    } else {
      plan->algorithm = EDGECONV_DIRECT;
    }
  }
  if (plan->algorithm == EDGECONV_WINOGRAD) {
    cut_winograd(shape, size, &tiling);
    const int64_t columns = (tiling.block_columns + 1) / 2;
    // An odd number of vectors: channels at a power of two of each other would share the sets of the caches.
    plan->pitch = (round_up((tiling.block_rows + 1) / 2 * columns, size.lanes) / size.lanes | 1) * size.lanes;
    // The last vector of a row of tiles may run over its plane.
    head = 4 * (shape.in_channels / shape.group * plan->pitch + size.lanes);
    sums = 4 * kWinogradGroup * (tiling.tile_positions + size.lanes);
    outputs = 4 * tiling.channel_chunk * plan->pitch + size.lanes;
    work = 2 * columns + 2;
  }
  if (plan->algorithm == EDGECONV_BF16X3_TILES) {
    edgeconv_bf16x3_cut(&shape, &size, plan->block_pairs, &tiling);
    head = edgeconv_bf16x3_strip_floats(&shape, plan->block_pairs, tiling.block_rows, tiling.block_columns);
    sums = edgeconv_bf16x3_sum_floats(&shape, plan->block_pairs, &tiling);
    work = 2 * edgeconv_bf16x3_row_floats(&shape, tiling.block_columns);
  }
  if (plan->algorithm == EDGECONV_DIRECT) edgeconv_tiling(&shape, &size, &tiling);

  const int64_t positions = tiling.block_rows * tiling.block_columns;
  const int64_t patch_columns =
      (tiling.block_columns - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1;
  int64_t place = 0;
  const auto reserve = [&place](int64_t floats) {
    const int64_t at = place;
    place = round_up(place + floats, 16);
    return at;
  };
  reserve(std::max(head, tiling.strip_floats));
  plan->sums = reserve(std::max(sums, tiling.sum_floats));
  plan->outputs = reserve(outputs);
  plan->patch_sums = reserve(positions + std::max(tiling.tile_positions, 2 * size.lanes));
  plan->work = reserve(std::max(work, patch_columns + tiling.block_columns + 4 * size.lanes));
  plan->offsets = reserve(std::max(tiling.tap_block, shape.in_channels / shape.group));
  plan->weights = reserve(plan->packing == EDGECONV_DIRECT ? 0 : tiling.tap_block * tiling.tile_rows);
  plan->channels = reserve(4 * std::min(tiling.channel_chunk, tiling.group_channels));
  plan->scratch_floats = place;
}

// One sum a channel that completes parts (kervolution_epilogue.h), and what is to know about all of them.
template <typename Element>
void sum_filters(const EdgeconvKervolutionParams& params, int64_t taps, const Element* w, float* sums) {
  constexpr double kOffset = 4.0;  // standard deviations
  const int64_t channels = params.shape.out_channels;
  uint32_t largest = 0;
  double total = 0.0, squares = 0.0;
  for (int64_t channel = 0; channel < channels; ++channel) {
    double sum = 0.0, square = 0.0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const float value = element_to_float(*w++);
      largest = std::max(largest, bits_from_float(std::fabs(value)));
      sum += value;
      square += double(value) * double(value);
    }
    sums[channel] = static_cast<float>(params.kernel == EDGECONV_MANHATTAN ? sum : square);
    total += sum;
    squares += square;
  }
  const double count = std::max<double>(1.0, double(channels * taps)), mean = total / count;
  const double variance = squares / count - mean * mean;
  float* const values = sums + channels;
  values[EDGECONV_LARGEST_MAGNITUDE] = float_from_bits(largest);
  values[EDGECONV_HAVE_OFFSET] = mean * mean > kOffset * kOffset * variance ? 1.0f : 0.0f;
}

template <typename Element>
void pack(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionPlan& plan, const Element* w,
          float* packed) {
  const EdgeconvConvShape& shape = params.shape;
  const EdgeconvTiling& tiling = plan.tiling;
  if (plan.packing == EDGECONV_WINOGRAD) {
    edgeconv_winograd_pack(&shape, tiling.padded_channels, tiling.tile_rows, params.element_type, w, packed);
  } else if (plan.packing == EDGECONV_BF16X3_TILES) {
    edgeconv_bf16x3_pack(&shape, plan.block_pairs, params.element_type, w, packed);
  } else if (plan.packing == EDGECONV_DEPTHWISE) {
    std::transform(w, w + shape.out_channels * tiling.taps, packed,
                   [](Element value) { return element_to_float(value); });
  } else {
    edgeconv_pack_weights(&shape, &tiling, params.element_type, w, packed);
  }
  sum_filters(params, tiling.taps, w, packed + plan.packed_floats);
}

}  // namespace

extern "C" {

int edgeconv_kervolution_plan(const EdgeconvKervolutionParams* params, int isa, EdgeconvKervolutionPlan* plan,
                              EdgeconvStatus* status) {
  const EdgeconvKervolutionIsa* kernels = find_isa(isa);
  if (kernels == nullptr) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "this CPU does not have the instruction set '%s'",
                               edgeconv_isa_name(isa));
  }
  *plan = {};
  edgeconv_filter_tiling(&params->shape, &kernels->tile, &plan->tiling);
  plan->packing = choose_packing(*params, isa);
  if (plan->packing == EDGECONV_BF16X3_TILES) plan->block_pairs = edgeconv_bf16x3_block_pairs(&params->shape);
  plan->packed_floats = static_cast<int64_t>(filter_floats(*params, *plan));
  if (params->shape.out_height > 0) complete_plan(*params, kernels->tile, plan);
  return status->code = EDGECONV_OK;
}

size_t edgeconv_kervolution_packed_bytes(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan) {
  return static_cast<size_t>(plan->packed_floats + params->shape.out_channels + EDGECONV_FILTER_VALUES) * sizeof(float);
}

void edgeconv_kervolution_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
                               const void* w, float* packed) {
  if (params->element_type == EDGECONV_FLOAT16) {
    pack(*params, *plan, static_cast<const uint16_t*>(w), packed);
  } else {
    pack(*params, *plan, static_cast<const float*>(w), packed);
  }
}

size_t edgeconv_kervolution_scratch_bytes(const EdgeconvKervolutionPlan* plan) {
  return static_cast<size_t>(plan->scratch_floats) * sizeof(float);
}

void edgeconv_kervolution_run(const EdgeconvKervolutionParams* params, int isa, const EdgeconvKervolutionPlan* plan,
                              const EdgeconvKervolutionArguments* arguments, int64_t first, int64_t last,
                              void* scratch) {
  const EdgeconvKervolutionIsa* kernels = find_runner(isa, *plan);
  for (int64_t task = first; kernels != nullptr && task < last; ++task) {
    kernels->run(params, plan, arguments, task, scratch);
  }
}

}  // extern "C"
