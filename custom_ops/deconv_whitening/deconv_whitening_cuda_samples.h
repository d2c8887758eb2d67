// Samples on the GPU: gathered from the input, summed, and packed as operands, in tiles of kTileSide positions by
// kTileSide features of one of the blocks that share a covariance. Included by deconv_whitening_cuda.cu alone.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_SAMPLES_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_SAMPLES_H_

#include "common/cuda_device.h"

namespace {

constexpr int kThreads = 256;     // of a block, but for whiten_small
constexpr int kTileSide = 32;     // of samples, and of what is transposed
constexpr int kMeanLanes = 8;     // threads that share one feature
constexpr float kHuge = 0x1p64f;  // from here on sums of floats may overflow

// Where the samples are in the input. Strides are in elements.
struct Samples {
  int group_stride, channel_stride, row_stride, column_stride, image_stride;
  int features, blocks, taps, kernel_width;
  int in_height, in_width, out_height, out_width;
  int stride_height, stride_width, pad_top, pad_left, dilation_height, dilation_width;
  int positions;
  int by_position;  // 1: neighbouring columns are neighbours in memory (NCHW); 0: channels are
};

// Of a group. Beside it, all in device memory: kernels find there what depends on values.
struct Scalars {
  double scale;      // deconv is divided by it
  float values[30];  // see Value
};
static_assert(sizeof(Scalars) == 128, "divides a slab");

// Each group has a slab of memory of a multiple of 256 bytes; pointers are given for the first.
template <typename T>
__device__ __forceinline__ T* of_group(T* pointer, int64_t group_bytes, int group) {
  return pointer + group * (group_bytes / static_cast<int64_t>(sizeof(T)));
}

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(__half value) { return __half2float(value); }

// One tile of samples in shared memory, and where its values come from.
struct SampleTile {
  float values[kTileSide][kTileSide + 1];                      // [feature][position]
  int image[kTileSide], row[kTileSide], column[kTileSide];     // of the input, at a position's first tap
  int channel[kTileSide], below[kTileSide], right[kTileSide];  // of a feature: elements, and the tap's place
};

// Called by kTileSide threads: one position each.
__device__ __forceinline__ void find_position(const Samples& samples, int position, int lane, SampleTile& tile) {
  if (samples.taps == 1) {  // flattened: an image is one row
    const int pixel = position * samples.stride_width, image = pixel / samples.in_width;
    tile.image[lane] = image * samples.image_stride;
    tile.row[lane] = 0;
    tile.column[lane] = pixel - image * samples.in_width;
    return;
  }
  const int row = position / samples.out_width, image = row / samples.out_height;
  tile.image[lane] = image * samples.image_stride;
  tile.row[lane] = (row - image * samples.out_height) * samples.stride_height - samples.pad_top;
  tile.column[lane] = (position - row * samples.out_width) * samples.stride_width - samples.pad_left;
}

// Called by kTileSide threads: one feature of block `block` each.
__device__ __forceinline__ void find_feature(const Samples& samples, int feature, int block, int lane,
                                             SampleTile& tile) {
  const int column = feature * samples.blocks + block, channel = column / samples.taps;
  const int tap = column - channel * samples.taps, tap_row = tap / samples.kernel_width;
  tile.channel[lane] = channel * samples.channel_stride;
  tile.below[lane] = tap_row * samples.dilation_height;
  tile.right[lane] = (tap - tap_row * samples.kernel_width) * samples.dilation_width;
}

// All threads; a barrier before (what find_position and find_feature left), and one after.
template <typename Element>
__device__ __forceinline__ void gather(const Samples& samples, const Element* x, int features, int positions,
                                       SampleTile& tile) {
#pragma unroll
  for (int i = 0; i < kTileSide * kTileSide / kThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kThreads, fast = index % kTileSide, slow = index / kTileSide;
    const int feature = samples.by_position ? slow : fast, position = samples.by_position ? fast : slow;
    if (feature >= features || position >= positions) continue;
    const int row = tile.row[position] + tile.below[feature], column = tile.column[position] + tile.right[feature];
    float value = 0.0f;
    if (row >= 0 && row < samples.in_height && column >= 0 && column < samples.in_width) {
      value = as_float(
          x[tile.image[position] + tile.channel[feature] + row * samples.row_stride + column * samples.column_stride]);
    }
    tile.values[feature][position] = value;
  }
}

// Sums and extremes of the features over a part of the positions of one block: [part * blocks + block][feature].
struct PartialSums {
  double* sums;
  float* least;
  float* largest;
  int parts, part_tiles;  // and tiles of positions that each has
};

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    sum_samples(Samples samples, PartialSums partial, const Element* x, int64_t group_bytes) {
  EDGECONV_SHARED(SampleTile, tile);
  const int thread = threadIdx.x, feature_tiles = (samples.features + kTileSide - 1) / kTileSide;
  const int first_feature = static_cast<int>(blockIdx.x) % feature_tiles * kTileSide;
  const int index = static_cast<int>(blockIdx.x) / feature_tiles;  // of the part and the block of channels
  const int block = index % samples.blocks, part = index / samples.blocks;
  const int features = min(kTileSide, samples.features - first_feature);
  x += static_cast<int64_t>(blockIdx.z) * samples.group_stride;

  // Each thread has a feature, and every eighth position of a tile. The sum is a pair of itself and of what was lost to
  // rounding; values that might make it overflow have a sum of their own.
  const int own = thread / kMeanLanes, lane = thread % kMeanLanes;
  float sum = 0.0f, lost = 0.0f, least = INFINITY, largest = -INFINITY;
  double huge = 0.0;
  if (thread < features) find_feature(samples, first_feature + thread, block, thread, tile);
  const int64_t end =
      min(static_cast<int64_t>(samples.positions), static_cast<int64_t>(part + 1) * partial.part_tiles * kTileSide);
  for (int64_t first = static_cast<int64_t>(part) * partial.part_tiles * kTileSide; first < end; first += kTileSide) {
    const int positions = static_cast<int>(min(static_cast<int64_t>(kTileSide), end - first));
    const int at = thread - kTileSide;
    if (at >= 0 && at < positions) find_position(samples, static_cast<int>(first) + at, at, tile);
    __syncthreads();
    gather(samples, x, features, positions, tile);
    __syncthreads();
    for (int position = lane; position < positions && own < features; position += kMeanLanes) {
      const float value = tile.values[own][position];
      least = fminf(least, value);
      largest = fmaxf(largest, value);
      if (fabsf(value) >= kHuge) {
        huge += static_cast<double>(value);
      } else {
        const float next = sum + value, added = next - sum;
        lost += (sum - (next - added)) + (value - added);
        sum = next;
      }
    }
  }
  double total = (static_cast<double>(sum) + static_cast<double>(lost)) + huge;
#pragma unroll
  for (int distance = kMeanLanes / 2; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, distance);
    least = fminf(least, __shfl_xor_sync(0xffffffffu, least, distance));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  }
  if (lane == 0 && own < features) {
    const int64_t to = static_cast<int64_t>(index) * samples.features + first_feature + own;
    of_group(partial.sums, group_bytes, blockIdx.z)[to] = total;
    of_group(partial.least, group_bytes, blockIdx.z)[to] = least;
    of_group(partial.largest, group_bytes, blockIdx.z)[to] = largest;
  }
}

// Of kTileSide features: the largest magnitude, infinite where a sample is not finite, and that of centred samples.
struct Magnitudes {
  float raw, centred;
};

// The features' means, unscaled, and the magnitudes of each tile of features.
__global__ void __launch_bounds__(kThreads)
    finish_means(PartialSums partial, double* means, Magnitudes* magnitudes, int features, int partials, double samples,
                 int64_t group_bytes) {
  EDGECONV_SHARED(double, sums, [kMeanLanes][kTileSide]);
  EDGECONV_SHARED(float, least, [kMeanLanes][kTileSide]);
  EDGECONV_SHARED(float, largest, [kMeanLanes][kTileSide]);
  const int column = static_cast<int>(threadIdx.x) % kTileSide, lane = static_cast<int>(threadIdx.x) / kTileSide;
  const int feature = static_cast<int>(blockIdx.x) * kTileSide + column, group = blockIdx.z;
  const double* const from = of_group(partial.sums, group_bytes, group);
  const float* const lows = of_group(partial.least, group_bytes, group);
  const float* const highs = of_group(partial.largest, group_bytes, group);
  double sum = 0.0;
  float low = INFINITY, high = -INFINITY;
  for (int64_t i = lane; i < partials && feature < features; i += kMeanLanes) {
    sum += from[i * features + feature];
    low = fminf(low, lows[i * features + feature]);
    high = fmaxf(high, highs[i * features + feature]);
  }
  sums[lane][column] = sum;
  least[lane][column] = low;
  largest[lane][column] = high;
  __syncthreads();
  if (lane > 0) return;
  for (int i = 1; i < kMeanLanes; ++i) {
    sum += sums[i][column];
    low = fminf(low, least[i][column]);
    high = fmaxf(high, largest[i][column]);
  }
  const double mean = sum / samples;
  Magnitudes most = {0.0f, 0.0f};
  if (feature < features) {
    of_group(means, group_bytes, group)[feature] = mean;
    // Finite samples have a finite sum.
    most.raw = isfinite(sum) ? fmaxf(fabsf(low), fabsf(high)) : INFINITY;
    most.centred =
        static_cast<float>(fmin(fmax(static_cast<double>(high) - mean, mean - static_cast<double>(low)), 3e38));
  }
#pragma unroll
  for (int distance = kTileSide / 2; distance > 0; distance /= 2) {
    most.raw = fmaxf(most.raw, __shfl_xor_sync(0xffffffffu, most.raw, distance));
    most.centred = fmaxf(most.centred, __shfl_xor_sync(0xffffffffu, most.centred, distance));
  }
  if (column == 0) of_group(magnitudes, group_bytes, group)[blockIdx.x] = most;
}

// The power of two by which samples of a magnitude are multiplied before they are squared. Up to 2^21 their squares,
// their covariance and the squares of that stay far from overflow.
__device__ __forceinline__ float inverse_scale(float magnitude) {
  constexpr uint32_t kLargeExponent = 127 + 20;
  const uint32_t exponent = __float_as_uint(magnitude) >> 23;
  if (exponent == 255) return NAN;
  if (exponent <= kLargeExponent) return 1.0f;
  return __uint_as_float((exponent == 254 ? 1u : 254u - exponent) << 23);  // no subnormal
}

// Of a whole group, from those of its tiles of features: called by one warp, each lane of which gets it. It is the
// centred samples that are squared: where they are alike, however large, eps must not get lost in the scale.
__device__ __forceinline__ float group_inverse(const Magnitudes* magnitudes, int tiles, bool centered) {
  float raw = 0.0f, centred = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < tiles; i += 32) {
    raw = fmaxf(raw, magnitudes[i].raw);
    centred = fmaxf(centred, magnitudes[i].centred);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    raw = fmaxf(raw, __shfl_xor_sync(0xffffffffu, raw, distance));
    centred = fmaxf(centred, __shfl_xor_sync(0xffffffffu, centred, distance));
  }
  const float inverse = inverse_scale(raw);
  return centered && inverse != 1.0f && isfinite(inverse) ? inverse_scale(centred) : inverse;
}

// Where samples go, scaled and less their mean: positions [first, first + count) of all blocks, one block after
// another.
struct Packed {
  const double* means;
  const Magnitudes* magnitudes;
  Scalars* scalars;
  float* rows;     // [sample][feature]
  float* columns;  // [feature][sample], or null
  int row_pitch, column_pitch;
  int first, count;
  int centered;
};

// The kernel for the first positions writes the means, and the scale, too.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    pack_samples(Samples samples, Packed packed, const Element* x, float* mean_output, int64_t group_bytes) {
  EDGECONV_SHARED(SampleTile, tile);
  EDGECONV_SHARED(float, high, [kTileSide]);
  EDGECONV_SHARED(float, low, [kTileSide]);
  EDGECONV_SHARED(float, shared_inverse, );
  const int thread = threadIdx.x, group = blockIdx.z;
  const int feature_tiles = (samples.features + kTileSide - 1) / kTileSide;
  const int position_tiles = (packed.count + kTileSide - 1) / kTileSide;
  const int first_feature = static_cast<int>(blockIdx.x) % feature_tiles * kTileSide;
  const int index = static_cast<int>(blockIdx.x) / feature_tiles;
  const int block = index / position_tiles, first = (index - block * position_tiles) * kTileSide;
  const int features = min(kTileSide, samples.features - first_feature);
  const int positions = min(kTileSide, packed.count - first);
  x += static_cast<int64_t>(group) * samples.group_stride;

  if (thread < kTileSide) {
    if (thread < features) find_feature(samples, first_feature + thread, block, thread, tile);
  } else if (thread < 2 * kTileSide) {
    const int at = thread - kTileSide;
    if (at < positions) find_position(samples, packed.first + first + at, at, tile);
  } else if (thread < 2 * kTileSide + 32) {
    const float found = group_inverse(of_group(packed.magnitudes, group_bytes, group), feature_tiles, packed.centered);
    if (thread == 2 * kTileSide) shared_inverse = found;
  }
  __syncthreads();
  const float inverse = shared_inverse;
  gather(samples, x, features, positions, tile);
  if (thread < features) {
    // In two floats: what one of them lacks would show in the covariance of far-off samples.
    const double mean = of_group(packed.means, group_bytes, group)[first_feature + thread];
    const double scaled = mean * static_cast<double>(inverse);
    const float rounded = static_cast<float>(scaled);
    high[thread] = packed.centered ? rounded : 0.0f;
    low[thread] = packed.centered ? static_cast<float>(scaled - static_cast<double>(rounded)) : 0.0f;
    if (packed.first == 0 && index == 0) {
      mean_output[static_cast<int64_t>(group) * samples.features + first_feature + thread] =
          isfinite(inverse) ? static_cast<float>(mean) : NAN;
    }
  }
  if (thread == 0 && packed.first == 0 && blockIdx.x == 0) {
    of_group(packed.scalars, group_bytes, group)->scale = 1.0 / static_cast<double>(inverse);
  }
  __syncthreads();

  const int sample = block * packed.count + first;  // the first
  float* const rows = of_group(packed.rows, group_bytes, group);
  float* const columns = packed.columns == nullptr ? nullptr : of_group(packed.columns, group_bytes, group);
#pragma unroll
  for (int i = 0; i < kTileSide * kTileSide / kThreads; ++i) {
    const int fast = thread % kTileSide, slow = thread / kTileSide + i * (kThreads / kTileSide);
    if (fast < features && slow < positions) {
      rows[static_cast<int64_t>(sample + slow) * packed.row_pitch + first_feature + fast] =
          (tile.values[fast][slow] * inverse - high[fast]) - low[fast];
    }
    if (columns != nullptr && slow < features && fast < positions) {
      columns[static_cast<int64_t>(first_feature + slow) * packed.column_pitch + sample + fast] =
          (tile.values[slow][fast] * inverse - high[slow]) - low[slow];
    }
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_SAMPLES_H_
