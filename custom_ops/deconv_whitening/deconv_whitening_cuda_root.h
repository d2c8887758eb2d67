// The covariance's inverse square root on the GPU, but for the products of large matrices: norm, first step, what
// depends on the norm, and small matrices from beginning to end.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_ROOT_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_ROOT_H_

#include "deconv_whitening/deconv_whitening_cuda_product.h"
#include "deconv_whitening/deconv_whitening_steps.h"

namespace {

constexpr int kMostNorms = 256;  // parts of a squared norm
constexpr int kSmallFeatures = 64;
constexpr int kSmallThreads = 288;  // two triangles of 16 x 16 tiles have 272

// What the kernels of this file share.
struct Root {
  Scalars* scalars;
  double* norms;      // parts of the squared norm of the matrix
  float* covariance;  // [order][pitch]; `splits` of them in `partials`, of which the upper triangles count
  const float* partials;
  int splits, norm_count, order, pitch, features, n_iter;
  double samples, eps;
  int64_t group_bytes;
};

// The sum over a block, for all of its threads, whose number is a multiple of 32. In the same order always.
__device__ __forceinline__ double block_sum(double value) {
  EDGECONV_SHARED(double, sums, [32]);
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0.0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += sums[i];
  return sum;
}

// In units of the scale.
__device__ __forceinline__ double scaled_eps(const Root& root, const Scalars& scalars) {
  return root.eps / scalars.scale / scalars.scale;
}

// The covariance, or the samples' products, from the sums of its splits; and parts of its squared norm.
__global__ void __launch_bounds__(kThreads) normalize(Root root) {
  EDGECONV_SHARED(float, tile, [kTileSide][kTileSide + 1]);
  const int group = blockIdx.z, x = static_cast<int>(threadIdx.x) % kTileSide;
  const int y = static_cast<int>(threadIdx.x) / kTileSide;
  const int tiles = (root.order + kTileSide - 1) / kTileSide;
  const float* const partials = of_group(root.partials, root.group_bytes, group);
  float* const covariance = of_group(root.covariance, root.group_bytes, group);
  const float share = static_cast<float>(1.0 / root.samples);
  const float eps = static_cast<float>(scaled_eps(root, *of_group(root.scalars, root.group_bytes, group)));
  const int64_t split_floats = static_cast<int64_t>(root.order) * root.pitch;
  double squares = 0.0;
  for (int index = blockIdx.x; index < tiles * (tiles + 1) / 2; index += gridDim.x) {
    int row_tile, column_tile;
    find_tile(index, &row_tile, &column_tile);
    const int column = column_tile * kTileSide + x;
#pragma unroll
    for (int i = y; i < kTileSide; i += kThreads / kTileSide) {
      const int row = row_tile * kTileSide + i;
      if (row > column || column >= root.order) continue;
      const int64_t at = static_cast<int64_t>(row) * root.pitch + column;
      float value = 0.0f;
      for (int split = 0; split < root.splits; ++split) value += partials[split * split_floats + at];
      value *= share;
      if (row == column) value += eps;
      const double square = static_cast<double>(value) * static_cast<double>(value);
      squares += row == column ? square : 2.0 * square;
      covariance[at] = value;
      tile[i][x] = value;
    }
    __syncthreads();
    const int row = row_tile * kTileSide + x;
#pragma unroll
    for (int i = y; i < kTileSide; i += kThreads / kTileSide) {
      const int mirrored = column_tile * kTileSide + i;
      if (row < mirrored && mirrored < root.order) {
        covariance[static_cast<int64_t>(mirrored) * root.pitch + row] = tile[x][i];
      }
    }
    __syncthreads();
  }
  const double sum = block_sum(squares);
  if (threadIdx.x == 0) of_group(root.norms, root.group_bytes, group)[blockIdx.x] = sum;
}

// Of the features' covariance: eigenvalues that few samples do not have are eps. For all threads of a block.
__device__ __forceinline__ double covariance_norm(const Root& root, int group) {
  const double* const norms = of_group(root.norms, root.group_bytes, group);
  double squares = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < root.norm_count; i += static_cast<int>(blockDim.x)) {
    squares += norms[i];
  }
  const double eps = scaled_eps(root, *of_group(root.scalars, root.group_bytes, group));
  return sqrt(block_sum(squares) + static_cast<double>(root.features - root.order) * eps * eps);
}

__device__ __forceinline__ double result_factor(const Scalars& scalars, double norm) {
  return 1.0 / sqrt(norm) / scalars.scale;
}

// Of step `step`, from 2 on: what the difference of T takes of Z and of the old difference, and what Z's takes of that.
__host__ __device__ constexpr int step_value(int64_t step, int which) {
  return kStepValues + 3 * static_cast<int>(step - 2) + which;
}
static_assert(step_value(kSymmetricSteps, 2) < 30, "Scalars has room for all");

// Few samples: what Newton-Schulz makes of the eigenvalue eps goes into the coming products.
__device__ void find_values(const Root& root, double norm, Scalars* scalars) {
  const double e = scaled_eps(root, *scalars) / norm, factor = result_factor(*scalars, norm);
  double y = e, z = 1.0;
  for (int step = 1; step <= root.n_iter; ++step) {
    const double t = (3.0 - z * y) / 2.0;
    if (step > 1) {
      scalars->values[step_value(step, 0)] = static_cast<float>(-0.5 * z);
      scalars->values[step_value(step, 1)] = static_cast<float>(-0.5 * z * e);
      scalars->values[step_value(step, 2)] = static_cast<float>(t);
    }
    y *= t;
    z *= t;
  }
  scalars->values[kShare] = static_cast<float>(factor / (root.samples * norm));
  scalars->values[kDiagonal] = static_cast<float>(z * factor);
}

// Y = Cov / norm, in place of Cov, and Z = T = (3 I - Y) / 2 of the first Newton-Schulz step; where there is no other,
// the result.
__global__ void __launch_bounds__(kThreads) start_root(Root root, float* z, float* deconv, int few_samples) {
  const int group = blockIdx.z;
  const double norm = covariance_norm(root, group);
  Scalars* const scalars = of_group(root.scalars, root.group_bytes, group);
  const float inverse = static_cast<float>(1.0 / norm), factor = static_cast<float>(result_factor(*scalars, norm));
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    scalars->values[kResult] = factor;
    if (few_samples) find_values(root, norm, scalars);
  }
  float* const y = of_group(root.covariance, root.group_bytes, group);
  z = of_group(z, root.group_bytes, group);
  deconv += static_cast<int64_t>(group) * root.order * root.order;
  const int64_t count = static_cast<int64_t>(root.order) * root.pitch;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int row = static_cast<int>(i / root.pitch), column = static_cast<int>(i - int64_t{row} * root.pitch);
    if (column >= root.order) continue;
    const float value = y[i] * inverse, one = row == column ? 1.0f : 0.0f;
    // No step: Z = I, but NaN stays.
    const float first = root.n_iter > 0 ? 1.5f * one - 0.5f * value : one + 0.0f * value;
    if (root.n_iter > 1) {
      y[i] = value;
      z[i] = first;
    } else {
      deconv[static_cast<int64_t>(row) * root.order + column] = first * factor;
    }
  }
}

// Small matrices, in shared memory: a tile of 4 x 4 sums a thread.
struct SmallTile {
  int row, column;
  float sums[4][4];
};

// A^T B, `depth` rows of `pitch` elements both.
__device__ __forceinline__ void multiply_small(const float* a, const float* b, int depth, int pitch, SmallTile& tile) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) tile.sums[i][j] = 0.0f;
  }
  for (int k = 0; k < depth; ++k) {
    const float4 x4 = *reinterpret_cast<const float4*>(a + k * pitch + tile.row);
    const float4 y4 = *reinterpret_cast<const float4*>(b + k * pitch + tile.column);
    const float x[4] = {x4.x, x4.y, x4.z, x4.w}, y[4] = {y4.x, y4.y, y4.z, y4.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) tile.sums[i][j] = fmaf(x[i], y[j], tile.sums[i][j]);
    }
  }
}

// factor * sums + addend on the diagonal. Of a symmetric result what is on and above the diagonal, and its mirror
// image; of a whole one, itself to `to` and its mirror image to `mirror`.
__device__ __forceinline__ void store_small(const SmallTile& tile, float factor, float addend, bool whole, int order,
                                            int pitch, float* to, float* mirror) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = tile.row + i, column = tile.column + j;
      if (row >= order || column >= order || (!whole && column < row)) continue;
      const float value = tile.sums[i][j] * factor + (row == column ? addend : 0.0f);
      to[row * pitch + column] = value;
      if (whole || row != column) mirror[column * pitch + row] = value;
    }
  }
}

// All of a group from its covariance on, two steps or more. Shared memory: four matrices of order x pitch.
__global__ void __launch_bounds__(kSmallThreads) whiten_small(Root root, float* deconv) {
  EDGECONV_DYNAMIC_SHARED(float, memory);
  const int group = blockIdx.z, thread = threadIdx.x, order = root.order, pitch = root.pitch;
  const int size = order * pitch;
  float *const y = memory, *const z = memory + size, *const t = memory + 2 * size, *const t_mirror = memory + 3 * size;
  const double norm = covariance_norm(root, group);
  const float inverse = static_cast<float>(1.0 / norm);
  const float* const covariance = of_group(root.covariance, root.group_bytes, group);
  for (int i = thread; i < size; i += kSmallThreads) {
    const int row = i / pitch, column = i - row * pitch;
    const float value = column < order ? covariance[i] * inverse : 0.0f;
    y[i] = value;
    z[i] = (row == column ? 1.5f : 0.0f) - 0.5f * value;
    t[i] = t_mirror[i] = 0.0f;
  }
  __syncthreads();

  // Two triangles of tiles, for two products; or a square of them.
  const int side = (order + 3) / 4, triangle = side * (side + 1) / 2, product = thread / triangle;
  SmallTile upper, whole;
  find_tile(thread % triangle, &upper.row, &upper.column);
  upper.row *= 4;
  upper.column *= 4;
  whole.row = thread / side * 4;
  whole.column = thread % side * 4;

  if (product == 0) multiply_small(z, y, order, pitch, upper);
  __syncthreads();
  if (product == 0) store_small(upper, 1.0f, 0.0f, false, order, pitch, y, y);
  __syncthreads();
  for (int step = 2; step <= root.n_iter; ++step) {
    const bool symmetric = step <= kSymmetricSteps;
    if (symmetric && product == 0) {
      multiply_small(z, y, order, pitch, upper);
      store_small(upper, -0.5f, 1.5f, false, order, pitch, t, t);
    } else if (!symmetric && thread < side * side) {
      multiply_small(z, y, order, pitch, whole);
      store_small(whole, -0.5f, 1.5f, true, order, pitch, t, t_mirror);
    }
    __syncthreads();
    const bool last = step == root.n_iter;
    if (product == 0) multiply_small(symmetric ? t : t_mirror, z, order, pitch, upper);
    if (product == 1 && !last) multiply_small(t, y, order, pitch, upper);
    __syncthreads();
    if (last) {
      const double scale = of_group(root.scalars, root.group_bytes, group)->scale;
      const float factor = static_cast<float>(1.0 / sqrt(norm) / scale);
      deconv += static_cast<int64_t>(group) * order * order;
      if (product == 0) store_small(upper, factor, 0.0f, false, order, order, deconv, deconv);
      return;
    }
    if (product < 2) store_small(upper, 1.0f, 0.0f, false, order, pitch, product == 0 ? z : y, product == 0 ? z : y);
    __syncthreads();
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_ROOT_H_
