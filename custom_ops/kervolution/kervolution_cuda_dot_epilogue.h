// From sums to outputs on the GPU: what the four kernels of x.w make of a tile of them, and how it gets to y.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_EPILOGUE_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_EPILOGUE_H_

#include "kervolution/kervolution_cuda_dot.h"

namespace {

__device__ __forceinline__ float integer_power(float a, int64_t exponent) {
  while ((exponent & 1) == 0) {
    a *= a;
    exponent >>= 1;
  }
  float result = a;
  while (exponent >>= 1) {
    a *= a;
    if (exponent & 1) result *= a;
  }
  return result;
}

// A filter's values.
struct DotChannel {
  float balance, scale, bias;
};

__device__ __forceinline__ float value_of(const EdgeconvChannelValues& values, int channel) {
  return values.values != nullptr ? values.values[channel * values.stride] : 0.0f;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

template <int kernel, typename Element, typename Problem>
__device__ __forceinline__ DotChannel load_channel(const Problem& problem, int channel) {
  DotChannel result = {};
  if (kernel == EDGECONV_POLYNOMIAL || kernel == EDGECONV_SIGMOID) result.balance = value_of(problem.balance, channel);
  if (kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_SIGMOID) result.scale = value_of(problem.scale, channel);
  // -0 leaves every value as it is, 0 would turn -0 into 0.
  const Element* const bias = static_cast<const Element*>(problem.bias);
  result.bias = bias != nullptr ? to_float(bias[channel]) : -0.0f;
  return result;
}

// |x - w|^2 from x.w and |x|^2 + |w|^2, which is infinite where an input is infinitely far: the difference would
// subtract infinities. NaN fails the comparison, too.
__device__ __forceinline__ float squared_distance(float product, float both) {
  return both < __int_as_float(0x7f800000) ? fmaxf(fmaf(-2.0f, product, both), 0.0f) : both;
}

// Of x.w, or of |x - w|^2.
template <int kernel>
__device__ __forceinline__ float finish_value(float a, const DotChannel& channel, int64_t degree) {
  float y;
  if constexpr (kernel == EDGECONV_POLYNOMIAL) {
    y = integer_power(a + channel.balance, degree);
  } else if constexpr (kernel == EDGECONV_SIGMOID) {
    y = tanhf(fmaf(channel.scale, a, channel.balance));
  } else if constexpr (kernel == EDGECONV_GAUSSIAN) {
    y = expf(-channel.scale * a);
  } else {
    y = -a;
  }
  return y + channel.bias;
}

__device__ __forceinline__ void store_pair(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(__half* to, float first, float second) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ void store_one(float* to, float value) { *to = value; }
__device__ __forceinline__ void store_one(__half* to, float value) { *to = __float2half_rn(value); }

// Which part of the outputs a tile is.
struct DotTilePlace {
  int first_row, first_column, group;
};

// |x|^2 of the tile's patches: box sums over pixels.
template <class Tile>
__device__ void sum_patches(const EdgeconvDotProblem& problem, const DotTilePlace& place, float* row_sums) {
  const EdgeconvConvPatches& patches = problem.patches;
  const int pixels = patches.positions / patches.image_positions * patches.height * patches.width;
  const float* const sums = problem.pixel_sums + int64_t{place.group} * pixels;
  for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) {
    const int position = place.first_row + i;
    const int image = position / patches.image_positions, rest = position % patches.image_positions;
    const int top = rest / patches.out_width * patches.stride_height - patches.pad_top;
    const int left = rest % patches.out_width * patches.stride_width - patches.pad_left;
    float sum = 0.0f;
    for (int tap_row = 0; tap_row < patches.kernel_height && position < patches.positions; ++tap_row) {
      const int row = top + tap_row * patches.dilation_height;
      if (static_cast<unsigned>(row) >= static_cast<unsigned>(patches.height)) continue;
      const float* const from = sums + int64_t{image * patches.height + row} * patches.width;
      for (int tap = 0, column = left; tap < patches.kernel_width; ++tap, column += patches.dilation_width) {
        if (static_cast<unsigned>(column) < static_cast<unsigned>(patches.width)) sum += from[column];
      }
    }
    row_sums[i] = sum;
  }
}

// A tile of results in shared memory, on its way to y: columns together if y has channels last, else rows.
template <class Tile, typename Element>
struct Staging {
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(Element));
  // Neighbouring lines begin in other banks, and on 16 bytes.
  static constexpr int kColumnsPitch = Tile::kColumns + 8, kRowsPitch = Tile::kRows + (sizeof(Element) == 4 ? 4 : 8);
  static constexpr int kElements = Tile::kRows * kColumnsPitch > Tile::kColumns* kRowsPitch
                                       ? Tile::kRows * kColumnsPitch
                                       : Tile::kColumns * kRowsPitch;
  static constexpr int kBytes = kElements * static_cast<int>(sizeof(Element));
};

template <class Tile, int kernel, typename Element>
__device__ __forceinline__ void stage_results(const EdgeconvDotProblem& problem, const DotTilePlace& tile, bool parts,
                                              const float* row_sums, Sums<Tile>& sums, Element* staging) {
  using Layout = Staging<Tile, Element>;
  const SumPlace<Tile> place;
#pragma unroll
  for (int j = 0; j < Tile::kColumnParts; ++j) {
    const int column = place.column(j);
    float filter_sums[2] = {};
    DotChannel channels[2] = {};
    bool exists[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      exists[e] = tile.first_column + column + e < problem.filters.filters;
      if (!exists[e]) continue;
      const int channel = tile.group * problem.filters.filters + tile.first_column + column + e;
      channels[e] = load_channel<kernel, Element>(problem, channel);
      if (parts) filter_sums[e] = problem.filter_sums[channel];
    }
#pragma unroll
    for (int i = 0; i < Tile::kRowParts; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = place.row(i, half);
        float results[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float a = sums[i][j][2 * half + e];
          if (parts) a = squared_distance(a, row_sums[row] + filter_sums[e]);
          results[e] = exists[e] ? finish_value<kernel>(a, channels[e], problem.degree) : 0.0f;
        }
        if (problem.channels_last) {
          store_pair(staging + row * Layout::kColumnsPitch + column, results[0], results[1]);
        } else {
          store_one(staging + column * Layout::kRowsPitch + row, results[0]);
          store_one(staging + (column + 1) * Layout::kRowsPitch + row, results[1]);
        }
      }
    }
  }
}

// To y with channels last. The last filters' tile also writes the zeros that fill a pixel up.
template <class Tile, typename Element>
__device__ void write_pixels(const EdgeconvDotProblem& problem, const DotTilePlace& tile, const Element* staging) {
  using Layout = Staging<Tile, Element>;
  constexpr int kVector = Layout::kVector, kVectors = Tile::kColumns / kVector;
  const int rows = min(Tile::kRows, problem.patches.positions - tile.first_row);
  const int first_channel = tile.group * problem.filters.filters + tile.first_column;
  const bool last = tile.group == problem.groups - 1 && tile.first_column + Tile::kColumns >= problem.filters.filters;
  const int own = problem.filters.filters - tile.first_column;
  const int columns = last ? problem.y_pitch - first_channel : min(own, Tile::kColumns);
  Element* const y = static_cast<Element*>(problem.y) + int64_t{tile.first_row} * problem.y_pitch + first_channel;
  const bool aligned = first_channel % kVector == 0 && problem.y_pitch % kVector == 0;
  const int vectors = aligned ? min(columns, Tile::kColumns) / kVector : 0;
  if (vectors > 0) {
    for (int i = threadIdx.x; i < rows * kVectors; i += Tile::kThreads) {
      const int row = i / kVectors, vector = i % kVectors;
      if (vector >= vectors) continue;
      *reinterpret_cast<uint4*>(y + int64_t{row} * problem.y_pitch + vector * kVector) =
          *reinterpret_cast<const uint4*>(staging + row * Layout::kColumnsPitch + vector * kVector);
    }
  }
  const int rest = columns - vectors * kVector;
  if (rest <= 0) return;
  for (int i = threadIdx.x; i < rows * rest; i += Tile::kThreads) {
    const int row = i / rest, column = vectors * kVector + i % rest;
    const bool staged = column < Tile::kColumns;
    y[int64_t{row} * problem.y_pitch + column] =
        staged ? staging[row * Layout::kColumnsPitch + column] : static_cast<Element>(0.0f);
  }
}

// To y with each channel's positions together.
template <class Tile, typename Element>
__device__ void write_planes(const EdgeconvDotProblem& problem, const DotTilePlace& tile, const Element* staging) {
  using Layout = Staging<Tile, Element>;
  const int plane = problem.patches.image_positions;
  const int first_channel = tile.group * problem.filters.filters + tile.first_column;
  const int columns = min(Tile::kColumns, problem.filters.filters - tile.first_column);
  const int all = problem.groups * problem.filters.filters;
  // Vectors of a plane are vectors of the tile, too: kRows is a multiple of both.
  const int width = plane % Layout::kVector == 0 ? Layout::kVector : 1;
  const int lines = Tile::kRows / width;
  static_assert(Tile::kThreads % Tile::kRows == 0, "all rows at once");
  const int row = static_cast<int>(threadIdx.x) % lines * width, step = Tile::kThreads / lines;
  const int position = tile.first_row + row;
  if (position >= problem.patches.positions) return;
  const int image = position / plane;
  Element* const y =
      static_cast<Element*>(problem.y) + (int64_t{image} * all + first_channel) * plane + position % plane;
  for (int column = static_cast<int>(threadIdx.x) / lines; column < columns; column += step) {
    const Element* const from = staging + column * Layout::kRowsPitch + row;
    Element* const to = y + int64_t{column} * plane;
    if (width > 1) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      *to = *from;
    }
  }
}

// Outputs of a tile from its sums, through `memory`, which nobody uses any more. Where the kernel is a function of
// |x - w|^2, `parts` says that the sums are of x.w, and row_sums has |x|^2. All threads of the block call it.
template <class Tile, typename Element, bool squares>
__device__ void finish_tile(const EdgeconvDotProblem& problem, const DotTilePlace& tile, bool parts,
                            const float* row_sums, Sums<Tile>& sums, char* memory) {
  Element* const staging = reinterpret_cast<Element*>(memory);
  if constexpr (squares) {
    if (problem.kernel == EDGECONV_GAUSSIAN) {
      stage_results<Tile, EDGECONV_GAUSSIAN>(problem, tile, parts, row_sums, sums, staging);
    } else {
      stage_results<Tile, EDGECONV_EUCLIDEAN>(problem, tile, parts, row_sums, sums, staging);
    }
  } else {
    if (problem.kernel == EDGECONV_POLYNOMIAL) {
      stage_results<Tile, EDGECONV_POLYNOMIAL>(problem, tile, false, nullptr, sums, staging);
    } else {
      stage_results<Tile, EDGECONV_SIGMOID>(problem, tile, false, nullptr, sums, staging);
    }
  }
  __syncthreads();
  if (problem.channels_last) {
    write_pixels<Tile>(problem, tile, staging);
  } else {
    write_planes<Tile>(problem, tile, staging);
  }
}

}  // namespace

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DOT_EPILOGUE_H_
