// Launch functions: checks, the plan, dispatch on the instruction set. The arithmetic is in deconv_whitening_kernel.h,
// compiled once for each instruction set.
#include <algorithm>
#include <cmath>

#include "deconv_whitening/deconv_whitening_steps.h"

namespace {

// The best of this operator's files up to `isa`.
const EdgeconvDeconvWhiteningIsa* find_isa(int isa) {
  if (isa < EDGECONV_ISA_BASELINE || isa > edgeconv_best_isa()) return nullptr;
#ifdef EDGECONV_HAVE_NEON
  if (isa >= EDGECONV_ISA_NEON) return &edgeconv_deconv_whitening_neon;
#endif
#ifdef EDGECONV_HAVE_AVX512
  if (isa >= EDGECONV_ISA_AVX512) return &edgeconv_deconv_whitening_avx512;
#endif
#ifdef EDGECONV_HAVE_AVX2
  if (isa >= EDGECONV_ISA_AVX2) return &edgeconv_deconv_whitening_avx2;
#endif
  return &edgeconv_deconv_whitening_baseline;
}

constexpr int64_t kMostSize = int64_t{1} << 30;
constexpr int64_t kMostSteps = 1000;
constexpr int64_t kMostFeatures = int64_t{1} << 15;  // their matrices have 4 GiB

constexpr int64_t kChunkBytes = 1 << 16;  // of samples gathered at a time
constexpr int64_t kLeastChunk = 8;        // positions of a chunk, and the most: chunks fit into L2
constexpr int64_t kMostChunk = 64;
constexpr int64_t kMeanTasks = 32;         // at most
constexpr int64_t kKeptBytes = 1 << 22;    // of samples that are gathered once
constexpr int64_t kPackedBytes = 1 << 22;  // of packed samples
constexpr int64_t kStripBytes = 30 << 10;  // of the right operand, in L1
constexpr int64_t kLeastSlice = 1024;      // rows of an operand
constexpr int64_t kWantedTasks = 16;
constexpr int64_t kGroupBytes = 1 << 23;  // of a task that does a whole group
// In multiply-adds of the register tile: what one thread does without the others, and the least that a thread is given.
constexpr double kAlone = 1 << 20, kLeastCall = 1 << 17;
constexpr double kElement = 32;  // what one element costs that is gathered, summed or stored

int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

long long as_long(int64_t value) { return value; }

// Hands out places in memory, aligned to cache lines.
struct Places {
  int64_t end = 0;
  int64_t take(int64_t bytes) {
    const int64_t at = end;
    end = round_up(end + bytes, 64);
    return at;
  }
};

EdgeconvDeconvWhiteningMatrix cut(int64_t order, const EdgeconvDeconvWhiteningIsa& isa,
                                  const EdgeconvDeconvWhiteningPlan& plan) {
  EdgeconvDeconvWhiteningMatrix matrix = {};
  matrix.order = order;
  matrix.padded = round_up(order, std::max(isa.lanes, isa.tile_rows));
  matrix.row_tiles = divide_up(order, isa.tile_rows);
  matrix.column_tiles = divide_up(order, isa.tile_columns);
  matrix.task_rows = std::clamp<int64_t>(matrix.row_tiles / 6, 6, 24);
  for (int64_t column = 0; column < matrix.column_tiles; ++column) {
    matrix.tile_tasks += divide_up(rows_above(plan, matrix, column), matrix.task_rows);
  }
  return matrix;
}

// Whether the root of the samples' products takes fewer multiply-adds than that of the features'. More steps than
// kSymmetricSteps would take whole products there, too; fewer than two make none.
bool has_few_samples(const EdgeconvDeconvWhiteningParams& params, int64_t features, int64_t samples) {
  if (samples >= features || params.n_iter < 2 || params.n_iter > kSymmetricSteps) return false;
  const double f = static_cast<double>(features), p = static_cast<double>(samples);
  const double steps = static_cast<double>(params.n_iter);
  // Of symmetric results, half. Five products a step, but one in the first, four in the second, two in the last.
  const double products = params.n_iter == 2 ? 2 : 5 * (steps - 3) + 7;
  return products * p * p * p / 2 + 1.5 * p * p * f + p * f * f / 2 < 1.5 * (steps - 1) * f * f * f + p * f * f / 2;
}

void place(const EdgeconvDeconvWhiteningParams& params, EdgeconvDeconvWhiteningPlan* plan) {
  const int64_t element_bytes = params.element_type == EDGECONV_FLOAT16 ? 2 : 4;
  const EdgeconvDeconvWhiteningMatrix &root = plan->root, &full = plan->full;
  const int64_t right = root.column_tiles * plan->tile_columns * root.padded * 4;
  const int64_t left = root.padded * root.padded * 4;
  Places places;
  plan->scale = places.take(64);
  plan->magnitudes = places.take(plan->mean_tasks * 4);
  plan->partial_sums = places.take(plan->mean_tasks * full.padded * 8);
  plan->mean = places.take(2 * full.padded * 4);
  plan->norms = places.take(root.row_tiles * 8);
  plan->covariance = places.take(plan->slices * right);
  if (plan->few_samples) plan->features_left = places.take(full.padded * root.padded * 4);
  Places samples = places;
  const int64_t stride_bytes = params.blocks * plan->sample_stride * element_bytes;
  plan->gathered = samples.take(plan->keep ? params.positions * stride_bytes : 0);
  plan->samples = samples.take(root.column_tiles * plan->tile_columns * plan->operand_rows * 4);
  plan->left = samples.take(root.padded * plan->operand_rows * 4);
  if (params.n_iter > 1) {
    plan->y = places.take(right);
    for (int i = 0; i < 2; ++i) {
      plan->z[i] = places.take(right);
      plan->z_left[i] = places.take(left);
    }
    plan->t_left = places.take(left);
    plan->t_mirror = params.n_iter > kSymmetricSteps ? places.take(left) : plan->t_left;
  }
  if (plan->few_samples) {
    plan->d = places.take(right);
    plan->d_left = places.take(left);
    plan->factor_left = places.take(left);
    plan->d_samples = places.take(full.column_tiles * plan->tile_columns * root.padded * 4);
  }
  plan->group_bytes = std::max(places.end, samples.end);

  // A thread's scratch begins with offsets; then come samples and their sums, or the sums of tiles.
  const int64_t offsets = round_up(plan->tap_block * 4, 64);
  const int64_t gather = plan->chunk_positions * stride_bytes + 2 * full.padded * 4;
  const int64_t task_rows = std::max(root.task_rows, full.task_rows);
  const int64_t sums = (task_rows * plan->tile_rows * plan->tile_columns + full.padded) * 4;
  plan->scratch_bytes = offsets + round_up(std::max(gather, sums), 64);
}

// Multiply-adds that the tasks of a step cost together, or take as long as.
double step_work(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
                 const GroupStep& at) {
  const double n = static_cast<double>(plan.root.padded), half = n * n / 2;
  const double features = static_cast<double>(plan.full.padded);
  const double samples = static_cast<double>(params.positions * params.blocks);
  const double block = static_cast<double>(params.blocks * (at.step == Step::kPack || at.step == Step::kCovariance
                                                                ? block_positions(params, plan, at.index)
                                                                : 0));
  switch (at.step) {
    case Step::kSum: return samples * features * kElement;
    case Step::kMean: return 0;
    case Step::kPack: return block * features * kElement;
    case Step::kCovariance: return (plan.few_samples ? features : block) * half;
    case Step::kNormalize:
    case Step::kStart: return half * kElement / 2;
    case Step::kFirstY: return n * half;
    case Step::kT:
    case Step::kYAndZ:
      return n * half * static_cast<double>(is_whole_product(at) ? 2 : step_products(params, plan, at));
    case Step::kSpread: return n * n * features;
    case Step::kResult: return n * features * features / 2;
  }
  return 0;
}

double group_work(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan) {
  double work = 0;
  for (int64_t step = 0; step < plan.group_steps; ++step) work += step_work(params, plan, group_step(plan, step));
  return work;
}

}  // namespace

extern "C" {

void edgeconv_deconv_whitening_attributes_init(EdgeconvDeconvWhiteningAttributes* attributes) {
  edgeconv_conv_attributes_init(&attributes->window);
  attributes->block = 0;
  attributes->n_iter = 5;
  attributes->sampling_stride = 3;
  attributes->centered = 1;
  attributes->eps = 1e-5f;
}

int edgeconv_deconv_whitening_check(const EdgeconvDeconvWhiteningAttributes* attributes, EdgeconvStatus* status) {
  const int invalid = EDGECONV_INVALID_ARGUMENT;
  const EdgeconvConvAttributes& window = attributes->window;
  const auto fits = [](int64_t value) { return value >= 1 && value <= kMostSize; };
  if (!fits(window.kernel_shape[0]) || !fits(window.kernel_shape[1])) {
    return edgeconv_set_status(status, invalid, "kernel_shape is [%lld, %lld]: both must be stated, and positive",
                               as_long(window.kernel_shape[0]), as_long(window.kernel_shape[1]));
  }
  if (!fits(attributes->block)) {
    return edgeconv_set_status(status, invalid, "block is %lld: it must be stated, and positive",
                               as_long(attributes->block));
  }
  if (!fits(window.group)) {
    return edgeconv_set_status(status, invalid, "group is %lld: it must be positive", as_long(window.group));
  }
  if (attributes->n_iter < 0 || attributes->n_iter > kMostSteps) {
    return edgeconv_set_status(status, invalid, "n_iter is %lld: expected 0 to %lld", as_long(attributes->n_iter),
                               as_long(kMostSteps));
  }
  if (!fits(attributes->sampling_stride)) {
    return edgeconv_set_status(status, invalid, "sampling_stride is %lld: it must be positive",
                               as_long(attributes->sampling_stride));
  }
  if (attributes->centered != 0 && attributes->centered != 1) {
    return edgeconv_set_status(status, invalid, "centered is %lld: expected 0 or 1", as_long(attributes->centered));
  }
  if (!(attributes->eps >= 0) || !std::isfinite(attributes->eps)) {
    return edgeconv_set_status(status, invalid, "eps is %g: it must be finite and not negative",
                               static_cast<double>(attributes->eps));
  }
  // Strides, pads and dilations: with filters that fit the rest.
  const int64_t filters[4] = {window.group, 1, window.kernel_shape[0], window.kernel_shape[1]};
  EdgeconvConvShape shape;
  if (edgeconv_conv_filter_shape(&window, filters, 4, &shape, status) != EDGECONV_OK) return status->code;
  for (int64_t stride : window.strides) {
    if (stride * attributes->sampling_stride > kMostSize) {
      return edgeconv_set_status(status, invalid, "sampling_stride is %lld, strides are [%lld, %lld]: too far apart",
                                 as_long(attributes->sampling_stride), as_long(window.strides[0]),
                                 as_long(window.strides[1]));
    }
  }
  const double features = static_cast<double>(attributes->block) * static_cast<double>(window.kernel_shape[0]) *
                          static_cast<double>(window.kernel_shape[1]);
  if (features > kMostFeatures) {
    return edgeconv_set_status(status, invalid,
                               "block is %lld, kernel_shape is [%lld, %lld]: a covariance of %.0f x %.0f is too large, "
                               "at most %lld are supported",
                               as_long(attributes->block), as_long(window.kernel_shape[0]),
                               as_long(window.kernel_shape[1]), features, features, as_long(kMostFeatures));
  }
  return status->code = EDGECONV_OK;
}

int edgeconv_deconv_whitening_params(const EdgeconvDeconvWhiteningAttributes* attributes, const int64_t* x_dims,
                                     size_t x_rank, int element_type, EdgeconvDeconvWhiteningParams* params,
                                     EdgeconvStatus* status) {
  const int invalid = EDGECONV_INVALID_ARGUMENT;
  if (edgeconv_deconv_whitening_check(attributes, status) != EDGECONV_OK) return status->code;
  EdgeconvConvAttributes window = attributes->window;
  const int64_t group = window.group, block = attributes->block;
  const int64_t taps = window.kernel_shape[0] * window.kernel_shape[1];
  if (taps == 1) {
    for (int64_t& pad : window.pads) pad = 0;
    for (int64_t& dilation : window.dilations) dilation = 1;
  }
  // Filters that fit X, so that only X can be complained about.
  const int64_t channels = x_rank == 4 ? x_dims[1] : 0;
  const int64_t depth = std::max<int64_t>(1, channels / group);
  const int64_t filters[4] = {group, depth, window.kernel_shape[0], window.kernel_shape[1]};
  EdgeconvConvShape& shape = params->shape;
  if (edgeconv_conv_filter_shape(&window, filters, 4, &shape, status) != EDGECONV_OK) return status->code;
  shape.stride_height *= attributes->sampling_stride;
  shape.stride_width *= attributes->sampling_stride;
  if (x_rank == 4 && channels < 1) {
    return edgeconv_set_status(status, invalid, "X has %lld channels: expected at least one", as_long(channels));
  }
  if (edgeconv_conv_input_shape(&window, x_dims, x_rank, &shape, status) != EDGECONV_OK) return status->code;
  if (group > 1 ? block != depth : channels % block != 0) {
    return group > 1
               ? edgeconv_set_status(status, invalid,
                                     "X has %lld channels, group is %lld and block is %lld: with groups a block "
                                     "must be a group's %lld channels",
                                     as_long(channels), as_long(group), as_long(block), as_long(depth))
               : edgeconv_set_status(status, invalid, "X has %lld channels and block is %lld: block must divide them",
                                     as_long(channels), as_long(block));
  }
  if (taps == 1) {
    // Every (stride_height * stride_width)-th pixel, counted through all images.
    shape.in_width *= shape.in_height;
    shape.in_height = shape.out_height = 1;
    shape.stride_width *= shape.stride_height;
    shape.stride_height = 1;
    shape.out_width = 0;
    params->positions = divide_up(shape.batch * shape.in_width, shape.stride_width);
  } else {
    params->positions = shape.batch * shape.out_height * shape.out_width;
  }
  if (params->positions < 1) {
    return edgeconv_set_status(status, invalid, "X has %lld images: there is nothing to take a covariance of",
                               as_long(shape.batch));
  }
  params->element_type = element_type;
  params->features = block * taps;
  params->blocks = group > 1 ? 1 : channels / block;
  params->n_iter = attributes->n_iter;
  params->centered = attributes->centered;
  params->eps = static_cast<double>(attributes->eps);
  return status->code = EDGECONV_OK;
}

int edgeconv_deconv_whitening_plan(const EdgeconvDeconvWhiteningParams* params, int isa,
                                   EdgeconvDeconvWhiteningPlan* plan, EdgeconvStatus* status) {
  const EdgeconvDeconvWhiteningIsa* found = find_isa(isa);
  if (found == nullptr) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "this CPU does not have the instruction set %s",
                               edgeconv_isa_name(isa));
  }
  *plan = {};
  const int64_t features = params->features, positions = params->positions, blocks = params->blocks;
  plan->tile_rows = found->tile_rows;
  plan->tile_columns = found->tile_columns;
  plan->few_samples = has_few_samples(*params, features, positions * blocks);
  plan->full = cut(features, *found, *plan);
  plan->root = plan->few_samples ? cut(positions * blocks, *found, *plan) : plan->full;
  plan->tap_block = kStripBytes / 4 / plan->tile_columns;

  // Not a power of two, which would put all samples into the same sets of the caches.
  plan->sample_stride = plan->full.padded + 16;
  const int64_t position_bytes = blocks * plan->sample_stride * 4;
  // Whole tiles of rows.
  plan->chunk_positions = std::clamp(kChunkBytes / position_bytes / kLeastChunk * kLeastChunk, kLeastChunk, kMostChunk);
  plan->mean_positions = round_up(divide_up(positions, kMeanTasks), plan->chunk_positions);
  plan->mean_tasks = divide_up(positions, plan->mean_positions);
  plan->keep = positions * position_bytes <= kKeptBytes;

  const int64_t packed_bytes = (plan->full.column_tiles * plan->tile_columns + plan->full.padded) * 4 * blocks;
  const int64_t least = divide_up(plan->tap_block, blocks);
  const int64_t most = round_up(std::max(kPackedBytes / packed_bytes, least), plan->chunk_positions);
  plan->block_positions = plan->few_samples ? positions : std::min(positions, most);
  plan->sample_blocks = divide_up(positions, plan->block_positions);
  plan->operand_rows = plan->few_samples ? features : plan->block_positions * blocks;
  plan->slices = std::max<int64_t>(1, std::min(kWantedTasks / plan->root.tile_tasks, plan->operand_rows / kLeastSlice));

  place(*params, plan);
  plan->group_steps = group_step_count(*params, *plan);
  const int64_t groups = params->shape.group;
  plan->whole_groups = groups > 1 ? plan->group_bytes <= kGroupBytes : group_work(*params, *plan) <= kAlone;
  if (plan->whole_groups) {
    plan->phases = 1;
    plan->scratch_bytes += plan->group_bytes;
  } else {
    plan->phases = groups * plan->group_steps;
    plan->workspace_bytes = plan->group_bytes;
  }
  return status->code = EDGECONV_OK;
}

void edgeconv_deconv_whitening_tasks(const EdgeconvDeconvWhiteningParams* params,
                                     const EdgeconvDeconvWhiteningPlan* plan, int64_t phase, int64_t* tasks,
                                     int64_t* tasks_per_call) {
  double work;
  if (plan->whole_groups) {
    *tasks = params->shape.group;
    work = group_work(*params, *plan) * static_cast<double>(*tasks);
  } else {
    const GroupStep at = group_step(*plan, phase % plan->group_steps);
    *tasks = step_tasks(*params, *plan, at);
    work = step_work(*params, *plan, at);
  }
  const double share =
      work <= kAlone ? static_cast<double>(*tasks) : std::ceil(kLeastCall / (work / static_cast<double>(*tasks)));
  *tasks_per_call = static_cast<int64_t>(std::clamp(share, 1.0, static_cast<double>(*tasks)));
}

void edgeconv_deconv_whitening_run(const EdgeconvDeconvWhiteningParams* params, int isa,
                                   const EdgeconvDeconvWhiteningPlan* plan,
                                   const EdgeconvDeconvWhiteningArguments* arguments, int64_t phase, int64_t first,
                                   int64_t last, void* scratch) {
  const EdgeconvDeconvWhiteningIsa* found = find_isa(isa);
  for (int64_t task = first; task < last; ++task) found->run(params, plan, arguments, phase, task, scratch);
}

}  // extern "C"
