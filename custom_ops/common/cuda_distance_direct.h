// Sums or maxima of |x - w| where a group has few filters, depthwise layers above all: there is little to share between
// filters, and memory is the limit.
//
// Kernel:    a block has a rectangle of outputs of some groups. The input under it goes into shared memory as floats,
//            padded, some channels at a time; every thread keeps the sums of four neighbours in a row, for up to four
//            filters. A window's row of three, the common one, is read once for the four.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_DIRECT_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_DIRECT_H_

#include "common/cuda_distance_words.h"

namespace {

constexpr int kDirectThreads = 128;
constexpr int kDirectColumns = 4;  // outputs of a thread in a row

// What a block has: groups x rows x columns of kDirectColumns outputs, which is kDirectThreads.
struct DirectRow {
  int groups, rows, columns;
};

// Wide for planes, with lanes along rows; narrow for small images, and for pixels, with lanes along channels.
constexpr DirectRow kDirectTable[] = {{1, 16, 8}, {8, 8, 2}};
constexpr int kDirectTiles = sizeof(kDirectTable) / sizeof(kDirectTable[0]);
constexpr int kDirectTile = 16;  // the first of them in plans

constexpr int kMostDirectFilters = 8, kMostDirectTaps = 512;
constexpr int64_t kDirectBytes = 24 << 10;      // of shared memory that a block should have
constexpr int64_t kMostDirectBytes = 46 << 10;  // and may have

// How a block's part of the input lies in shared memory.
struct DirectPlan {
  DirectRow row;
  int thread_filters;  // 1 or 4
  int in_rows, in_columns;
  int pitch;         // floats from one row to the next, a multiple of 4
  int plane;         // from one channel to the next: an odd multiple of 4
  int channels;      // of each group at a time
  int weight_pitch;  // from one group's weights to the next
  int64_t bytes;
};

inline DirectPlan direct_plan(const EdgeconvConvShape& shape, const DirectRow& row) {
  DirectPlan plan = {};
  plan.row = row;
  plan.thread_filters = shape.out_channels == shape.group ? 1 : 4;
  const int64_t rows = (row.rows - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
  const int64_t columns =
      (row.columns * kDirectColumns - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1;
  const int64_t taps = shape.kernel_height * shape.kernel_width, depth = shape.in_channels / shape.group;
  const int64_t pitch = divide_up<int64_t>(columns, 4) * 4;
  if (rows > kMostDirectBytes || pitch > kMostDirectBytes) return plan.bytes = kMostDirectBytes + 1, plan;
  const int64_t plane = (rows * pitch / 4 | 1) * 4;
  const auto bytes = [&](int64_t channels) {
    return row.groups * (channels * plane + channels * taps * plan.thread_filters + 4) * 4;
  };
  int64_t channels = 1;
  while (channels < depth && bytes(channels + 1) <= kDirectBytes) ++channels;
  plan.in_rows = static_cast<int>(rows), plan.in_columns = static_cast<int>(columns);
  plan.pitch = static_cast<int>(pitch), plan.plane = static_cast<int>(plane);
  plan.channels = static_cast<int>(channels);
  plan.weight_pitch = static_cast<int>(channels * taps * plan.thread_filters + 4);
  plan.bytes = bytes(channels);
  return plan;
}

// By the filters alone: packing depends on it.
inline bool takes_direct(const EdgeconvConvShape& shape) {
  const int64_t filters = shape.out_channels / shape.group, depth = shape.in_channels / shape.group;
  const int64_t area = shape.kernel_height * shape.kernel_width;
  if (filters > kMostDirectFilters || area > kMostDirectTaps || depth > kMostDirectTaps / area) return false;
  for (int64_t size : {shape.kernel_height * shape.dilation_height, shape.kernel_width * shape.dilation_width,
                       shape.stride_height, shape.stride_width}) {
    if (size > kMostDirectBytes) return false;
  }
  for (const DirectRow& row : kDirectTable) {
    if (direct_plan(shape, row).bytes > kMostDirectBytes) return false;
  }
  return true;
}

// The row of kDirectTable for activations of this layout.
inline int choose_direct(const DistanceShape& shape, bool planar) {
  constexpr int kWide = 12;
  return planar && shape.out_width >= kWide ? 0 : 1;
}

struct DirectInput {
  DistanceShape shape;
  DirectPlan plan;
  bool planar;
  Strides strides;       // of x, in elements
  const float* filters;  // (M, C/group, kH, kW)
};

// A block's origin.
struct DirectPlace {
  int image, group, filter, row, column;  // of the outputs; the filter within the group
};

__device__ __forceinline__ DirectPlace direct_place(const DirectInput& input) {
  const DistanceShape& shape = input.shape;
  const DirectRow& row = input.plan.row;
  int index = static_cast<int>(blockIdx.x);
  const auto take = [&index](int count, int size) {
    const int blocks = divide_up(count, size), block = index % blocks;
    index /= blocks;
    return block * size;
  };
  DirectPlace place;
  place.column = take(shape.out_width, row.columns * kDirectColumns);
  place.row = take(shape.out_height, row.rows);
  place.filter = take(shape.filters, input.plan.thread_filters);
  place.group = take(shape.groups, row.groups);
  place.image = index;
  return place;
}

inline int64_t direct_blocks(const DistanceShape& shape, const DirectPlan& plan) {
  return static_cast<int64_t>(shape.batch) * divide_up(shape.groups, plan.row.groups) *
         divide_up(shape.filters, plan.thread_filters) * divide_up(shape.out_height, plan.row.rows) *
         divide_up(shape.out_width, plan.row.columns * kDirectColumns);
}

// Channels [first, first + channels) of the block's groups as planes of floats; zeros outside.
template <class Source>
__device__ __forceinline__ void load_planes(const DirectInput& input, const DirectPlace& place, const Source& source,
                                            const typename Source::Element* x, int first, int channels, float* to) {
  const DistanceShape& shape = input.shape;
  const DirectPlan& plan = input.plan;
  const int thread = static_cast<int>(threadIdx.x);
  const int y = place.row * shape.stride_height - shape.pad_top;
  const int left = place.column * shape.stride_width - shape.pad_left;
  const auto load = [&](int group, int channel, int row, int column) {
    float value = 0.0f;
    if (place.group + group < shape.groups && is_inside(shape, y + row, left + column)) {
      value = source(x + place.image * input.strides.image + (place.group + group) * input.strides.group +
                     (first + channel) * input.strides.channel + (y + row) * input.strides.row +
                     (left + column) * input.strides.column);
    }
    to[(group * plan.channels + channel) * plan.plane + row * plan.pitch + column] = value;
  };
  if (input.planar) {
    const int lanes = plan.in_columns > 16 ? 32 : 16;
    for (int group = 0; group < plan.row.groups; ++group) {
      for (int channel = 0; channel < channels; ++channel) {
        for (int row = thread / lanes; row < plan.in_rows; row += kDirectThreads / lanes) {
          for (int column = thread % lanes; column < plan.in_columns; column += lanes) {
            load(group, channel, row, column);
          }
        }
      }
    }
    return;
  }
  int column = thread / plan.row.groups, row = 0;
  while (true) {
    while (column >= plan.in_columns) column -= plan.in_columns, ++row;
    if (row >= plan.in_rows) return;
    for (int channel = 0; channel < channels; ++channel) load(thread % plan.row.groups, channel, row, column);
    column += kDirectThreads / plan.row.groups;
  }
}

// Weights of the same channels, [group][channel][row][column][filter].
template <int filters>
__device__ __forceinline__ void load_weights(const DirectInput& input, const DirectPlace& place, int first,
                                             int channels, float* to) {
  const DistanceShape& shape = input.shape;
  const int area = shape.kernel_height * shape.kernel_width, taps = channels * area;
  for (int group = 0; group < input.plan.row.groups; ++group) {
    for (int i = static_cast<int>(threadIdx.x); i < taps * filters; i += kDirectThreads) {
      const int filter = i / taps, tap = i - filter * taps;
      float value = 0.0f;
      if (place.group + group < shape.groups && place.filter + filter < shape.filters) {
        const int channel = (place.group + group) * shape.filters + place.filter + filter;
        value = input.filters[(static_cast<int64_t>(channel) * shape.depth + first) * area + tap];
      }
      to[group * input.plan.weight_pitch + tap * filters + filter] = value;
    }
  }
}

// One tap: kDirectColumns values of x, and the weights.
template <class Arithmetic, int filters>
__device__ __forceinline__ void add_tap(const float (&x)[kDirectColumns], const float* weights,
                                        typename Arithmetic::Sum (&sums)[filters][kDirectColumns]) {
  float w[filters];
  if constexpr (filters == 4) {
    const float4 four = *reinterpret_cast<const float4*>(weights);
    w[0] = four.x, w[1] = four.y, w[2] = four.z, w[3] = four.w;
  } else {
    w[0] = *weights;
  }
#pragma unroll
  for (int i = 0; i < filters; ++i) {
#pragma unroll
    for (int j = 0; j < kDirectColumns; ++j) {
      Arithmetic::add(&sums[i][j], __float_as_uint(x[j]), __float_as_uint(w[i]));
    }
  }
}

// A row of a window; `x` is under the first of the thread's outputs.
template <class Arithmetic, int filters>
__device__ __forceinline__ void add_row(const DistanceShape& shape, const float* x, const float* weights,
                                        typename Arithmetic::Sum (&sums)[filters][kDirectColumns]) {
  if (shape.kernel_width == 3 && shape.stride_width == 1 && shape.dilation_width == 1) {
    const float4 first = *reinterpret_cast<const float4*>(x);
    const float2 last = *reinterpret_cast<const float2*>(x + 4);
    const float all[6] = {first.x, first.y, first.z, first.w, last.x, last.y};
#pragma unroll
    for (int tap = 0; tap < 3; ++tap) {
      const float four[kDirectColumns] = {all[tap], all[tap + 1], all[tap + 2], all[tap + 3]};
      add_tap<Arithmetic, filters>(four, weights + tap * filters, sums);
    }
    return;
  }
#pragma unroll 1
  for (int tap = 0; tap < shape.kernel_width; ++tap) {
    float four[kDirectColumns];
#pragma unroll
    for (int j = 0; j < kDirectColumns; ++j) four[j] = x[j * shape.stride_width + tap * shape.dilation_width];
    add_tap<Arithmetic, filters>(four, weights + tap * filters, sums);
  }
}

// Source makes floats: float operator()(const Element*).
template <class Arithmetic, class Source, class Finish, int filters>
__global__ void __launch_bounds__(kDirectThreads, 8)
    distance_direct(const DirectInput input, const OutputPlaces output, const Source source,
                    const typename Source::Element* x, const Finish finish, typename Finish::Value* y) {
  EDGECONV_DYNAMIC_SHARED(float, planes);
  const DistanceShape& shape = input.shape;
  const DirectPlan& plan = input.plan;
  const DirectPlace place = direct_place(input);
  const int thread = static_cast<int>(threadIdx.x);
  // Lanes follow each other in memory.
  const int groups = plan.row.groups, threads = kDirectThreads / groups;
  const int group = input.planar ? thread / threads : thread % groups;
  const int quad = input.planar ? thread % threads : thread / groups;
  const int row = quad / plan.row.columns, column = quad % plan.row.columns * kDirectColumns;
  float* const weights = planes + groups * plan.channels * plan.plane;

  typename Arithmetic::Sum sums[filters][kDirectColumns];
#pragma unroll
  for (int i = 0; i < filters; ++i) {
#pragma unroll
    for (int j = 0; j < kDirectColumns; ++j) sums[i][j] = Arithmetic::zero();
  }
#pragma unroll 1
  for (int first = 0; first < shape.depth; first += plan.channels) {
    const int channels = min(plan.channels, shape.depth - first);
    if (first > 0) __syncthreads();
    load_planes(input, place, source, x, first, channels, planes);
    load_weights<filters>(input, place, first, channels, weights);
    __syncthreads();
    const float* w = weights + group * plan.weight_pitch;
    const float* const corner = planes + group * plan.channels * plan.plane + row * shape.stride_height * plan.pitch +
                                column * shape.stride_width;
#pragma unroll 1
    for (int channel = 0; channel < channels; ++channel) {
#pragma unroll 1
      for (int tap = 0; tap < shape.kernel_height; ++tap, w += shape.kernel_width * filters) {
        add_row<Arithmetic, filters>(shape, corner + channel * plan.plane + tap * shape.dilation_height * plan.pitch, w,
                                     sums);
      }
    }
  }

  const int out_row = place.row + row, out_column = place.column + column;
  if (place.group + group >= shape.groups || out_row >= shape.out_height) return;
  const int at = place.image * output.image + (out_row * shape.out_width + out_column) * output.column;
  const int position = (place.image * shape.out_height + out_row) * shape.out_width + out_column;
#pragma unroll
  for (int i = 0; i < filters; ++i) {
    if (place.filter + i >= shape.filters) break;
    const int channel = (place.group + group) * shape.filters + place.filter + i;
#pragma unroll
    for (int j = 0; j < kDirectColumns; ++j) {
      if (out_column + j >= shape.out_width) break;
      y[at + j * output.column + channel * output.channel] =
          finish(Arithmetic::result(sums[i][j]), channel, position + j);
    }
  }
}

template <class Arithmetic, class Source, class Finish>
cudaError_t launch_direct(const DirectInput& input, const OutputPlaces& output, const Source& source, const void* x,
                          const Finish& finish, void* y, cudaStream_t stream) {
  const auto* const from = static_cast<const typename Source::Element*>(x);
  auto* const to = static_cast<typename Finish::Value*>(y);
  const dim3 grid(static_cast<unsigned>(direct_blocks(input.shape, input.plan))), block(kDirectThreads);
  const size_t bytes = static_cast<size_t>(input.plan.bytes);
  if (input.plan.thread_filters == 1) {
    return EDGECONV_LAUNCH(distance_direct<Arithmetic, Source, Finish, 1>, grid, block, bytes, stream, input, output,
                           source, from, finish, to);
  }
  return EDGECONV_LAUNCH(distance_direct<Arithmetic, Source, Finish, 4>, grid, block, bytes, stream, input, output,
                         source, from, finish, to);
}

// Source makes floats of filters: float operator()(int filter, int tap).
template <class Source>
__global__ void __launch_bounds__(256) pack_floats(int64_t count, int taps, const Source source, float* to) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * 256;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; at < count; at += step) {
    to[at] = source(static_cast<int>(at / taps), static_cast<int>(at % taps));
  }
}

template <class Source>
cudaError_t launch_float_packing(const DistanceShape& shape, const Source& source, void* to, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 4096;
  const int taps = shape.depth * shape.kernel_height * shape.kernel_width;
  const int64_t count = static_cast<int64_t>(shape.groups) * shape.filters * taps;
  const int64_t blocks = divide_up<int64_t>(count, 256);
  return EDGECONV_LAUNCH(pack_floats<Source>, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                         dim3(256), 0, stream, count, taps, source, static_cast<float*>(to));
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_DIRECT_H_
