// How whitening is done on a GPU: checks, sizes of the kernels' work, and places in the workspace. Included by
// deconv_whitening_cuda.cu alone.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PLAN_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PLAN_H_

#include <algorithm>

#include "deconv_whitening/deconv_whitening_cuda.h"
#include "deconv_whitening/deconv_whitening_cuda_root.h"

namespace {

constexpr int64_t kElements = int64_t{1} << 31;      // kernels count in 32 bits
constexpr int64_t kMostGroups = 65535;               // of one launch
constexpr int64_t kGroupsBytes = int64_t{64} << 20;  // of groups that are at work together
constexpr int64_t kPackedBytes = int64_t{32} << 20;
constexpr int64_t kPartialBytes = int64_t{16} << 20;
constexpr int64_t kBlocksOfSums = 8, kBlocksOfProducts = 2;  // wanted for each multiprocessor
constexpr int64_t kStaticBytes = 1 << 10;                    // of shared memory, at most
constexpr int64_t kLeastPartTiles = 4, kMostParts = 64;
constexpr int64_t kLeastDepth = 128, kMostSplits = 64;  // of a split of samples

int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// At most kElements, so that products of many sizes stay in 64 bits.
int64_t bounded(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_mul_overflow(a, b, &result) || result > kElements ? kElements : result;
}

// Hands out places in a slab, aligned to what cudaMalloc aligns to.
struct Places {
  int64_t end = 0;
  int64_t take(int64_t bytes) {
    const int64_t at = end;
    end = round_up(end + bytes, 256);
    return at;
  }
};

// As on the CPU, the root of the samples' products is taken where that takes fewer multiply-adds. Small matrices have
// no time to win.
bool has_few_samples(const EdgeconvDeconvWhiteningParams& params, int64_t samples) {
  if (samples >= params.features || params.features <= kSmallFeatures) return false;
  if (params.n_iter < 2 || params.n_iter > kSymmetricSteps) return false;
  const double f = static_cast<double>(params.features), p = static_cast<double>(samples);
  const double steps = static_cast<double>(params.n_iter);
  // Of symmetric results, half. Five products a step, but one in the first, four in the second, two in the last.
  const double products = params.n_iter == 2 ? 2 : 5 * (steps - 3) + 7;
  return products * p * p * p / 2 + 1.5 * p * p * f + p * f * f / 2 < 1.5 * (steps - 1) * f * f * f + p * f * f / 2;
}

int64_t tile_count(int64_t rows, int64_t columns, bool symmetric, int64_t tile) {
  const int64_t tile_rows = divide_up(rows, tile);
  return symmetric ? tile_rows * (tile_rows + 1) / 2 : tile_rows * divide_up(columns, tile);
}

// The side of tiles that takes the least time. Small ones fill more multiprocessors, and have more to load and to add.
int32_t choose_tile(int64_t rows, int64_t columns, bool symmetric, int64_t products, int64_t multiprocessors) {
  int32_t best = 0;
  double least = 0;
  for (const int32_t tile : {128, 64, 32}) {
    const int64_t blocks = tile_count(rows, columns, symmetric, tile) * products;
    const double weight = tile == 128 ? 1.0 : tile == 64 ? 1.1 : 1.5;
    const double cost = static_cast<double>(divide_up(blocks, multiprocessors)) * tile * tile * weight;
    if (best == 0 || cost < least) {
      best = tile;
      least = cost;
    }
  }
  return best;
}

int64_t element_count(const EdgeconvDeconvWhiteningParams& params, const EdgeconvCudaFormat& format) {
  const EdgeconvConvShape& shape = params.shape;
  const int64_t channels = format.layout == EDGECONV_NHWC ? format.x_channel_pitch : shape.in_channels;
  return bounded(bounded(bounded(shape.batch, channels), shape.in_height), shape.in_width);
}

int check(const EdgeconvDeconvWhiteningParams& params, const EdgeconvCudaFormat& format, EdgeconvStatus* status) {
  const EdgeconvConvShape& shape = params.shape;
  if (params.element_type != EDGECONV_FLOAT32 && params.element_type != EDGECONV_FLOAT16) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "X must be float32 or float16");
  }
  if (format.layout != EDGECONV_NCHW && format.layout != EDGECONV_NHWC) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "layout %d is neither NCHW nor NHWC", format.layout);
  }
  if (format.layout == EDGECONV_NHWC && format.x_channel_pitch < shape.in_channels) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "a pixel of %lld channels has a pitch of %lld",
                               static_cast<long long>(shape.in_channels),
                               static_cast<long long>(format.x_channel_pitch));
  }
  if (element_count(params, format) >= kElements) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the CUDA kernels take tensors of fewer than 2^31 elements: X has %lld x %lld x %lld x "
                               "%lld. Cut the batch or the image into parts",
                               static_cast<long long>(shape.batch), static_cast<long long>(shape.in_channels),
                               static_cast<long long>(shape.in_height), static_cast<long long>(shape.in_width));
  }
  const int64_t down = (shape.out_height - 1) * shape.stride_height, right = (shape.out_width - 1) * shape.stride_width;
  const int64_t reach = larger(down + (shape.kernel_height - 1) * shape.dilation_height,
                               right + (shape.kernel_width - 1) * shape.dilation_width);
  const int64_t tile = bounded(bounded(params.blocks, round_up(params.features, 4)), kTileSide);
  if (reach >= kElements || params.positions >= kElements || tile >= kElements ||
      larger(shape.stride_height, shape.stride_width) >= kElements) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the CUDA kernels count in 32 bits: %lld positions, windows that reach %lld pixels, or "
                               "%lld blocks of %lld features are too many",
                               static_cast<long long>(params.positions), static_cast<long long>(reach),
                               static_cast<long long>(params.blocks), static_cast<long long>(params.features));
  }
  return EDGECONV_OK;
}

// What whiten_small has in shared memory.
int64_t small_bytes(const EdgeconvDeconvWhiteningCudaPlan& plan) {
  return 4 * int64_t{plan.order} * plan.pitch * static_cast<int64_t>(sizeof(float));
}

// Sizes of the kernels' work, for as many groups as are at work together.
void cut(const EdgeconvDeconvWhiteningParams& params, int64_t multiprocessors, EdgeconvDeconvWhiteningCudaPlan* plan) {
  const int64_t features = params.features, blocks = params.blocks, groups = plan->group_batch, order = plan->order;
  const int64_t feature_tiles = divide_up(features, kTileSide), position_tiles = divide_up(params.positions, kTileSide);
  const int64_t wanted = divide_up(kBlocksOfSums * multiprocessors, feature_tiles * blocks * groups);
  const int64_t parts = std::clamp<int64_t>(divide_up(position_tiles, kLeastPartTiles), 1, smaller(wanted, kMostParts));
  plan->part_tiles = static_cast<int32_t>(divide_up(position_tiles, parts));
  plan->sum_parts = static_cast<int32_t>(divide_up(position_tiles, plan->part_tiles));

  int64_t chunk = params.positions;
  if (!plan->few_samples) {
    const int64_t fitting = kPackedBytes / (groups * blocks * plan->feature_pitch * 4) / kTileSide * kTileSide;
    chunk = smaller(chunk, larger(fitting, kTileSide));
  }
  plan->chunk_positions = static_cast<int32_t>(chunk);

  // Of the samples' products: splits fill what tiles leave empty.
  plan->sample_tile = choose_tile(order, order, true, 1, 1);
  plan->root_tile = choose_tile(order, order, true, groups, multiprocessors);
  plan->whole_tile = choose_tile(order, order, false, groups, multiprocessors);
  plan->spread_tile = choose_tile(order, features, false, groups, multiprocessors);
  plan->result_tile = choose_tile(features, features, true, groups, multiprocessors);
  const int64_t depth = plan->few_samples ? features : chunk * blocks;
  const int64_t tiles = tile_count(order, order, true, plan->sample_tile) * groups;
  const int64_t most = smaller(kMostSplits, kPartialBytes / (groups * order * plan->pitch * 4));
  plan->splits = static_cast<int32_t>(larger(
      1, smaller(smaller(most, divide_up(depth, kLeastDepth)), divide_up(kBlocksOfProducts * multiprocessors, tiles))));
  const int64_t norm_tiles = divide_up(order, kTileSide);
  plan->norm_parts = static_cast<int32_t>(smaller(kMostNorms, norm_tiles * (norm_tiles + 1) / 2));
}

void place(const EdgeconvDeconvWhiteningParams& params, EdgeconvDeconvWhiteningCudaPlan* plan) {
  const int64_t features = params.features, partials = plan->sum_parts * params.blocks;
  const int64_t matrix = int64_t{plan->order} * plan->pitch * 4;
  const int64_t packed = plan->chunk_positions * params.blocks * plan->feature_pitch * 4;
  Places places;
  plan->scalars = places.take(sizeof(Scalars));
  plan->norms = places.take(plan->norm_parts * 8);
  plan->means = places.take(features * 8);
  plan->magnitudes = places.take(divide_up(features, kTileSide) * static_cast<int64_t>(sizeof(Magnitudes)));
  plan->y[0] = places.take(matrix);
  if (plan->few_samples) {
    plan->rows = places.take(packed);
    plan->d_samples = places.take(packed);
  }
  // One after another in the same place: partial sums; packed samples and their covariances; Newton-Schulz.
  Places sums = places, samples = places, root = places;
  plan->sums = sums.take(partials * features * 8);
  plan->least = sums.take(partials * features * 4);
  plan->largest = sums.take(partials * features * 4);
  plan->partials = samples.take(plan->splits * matrix);
  if (plan->few_samples) {
    plan->columns = samples.take(features * plan->pitch * 4);
  } else {
    plan->rows = samples.take(packed);
  }
  if (params.n_iter > 1 && !plan->small) {
    plan->y[1] = root.take(matrix);
    for (int64_t& z : plan->z) z = root.take(matrix);
    plan->t = plan->t_mirror = root.take(matrix);
    if (params.n_iter > kSymmetricSteps) plan->t_mirror = root.take(matrix);
    if (plan->few_samples) {
      plan->d = root.take(matrix);
      plan->factor = root.take(matrix);
    }
  }
  plan->group_bytes = larger(sums.end, larger(samples.end, root.end));
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_PLAN_H_
