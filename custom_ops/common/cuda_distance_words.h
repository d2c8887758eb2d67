// Words of taps for the register tile: packed filters with the table of their taps, and activations whose elements do
// not lie together as words want them.
//
// Kernels:   pack_taps and pack_filters, once a network; gather_words, before each call that needs it.
#ifndef EDGECONV_COMMON_CUDA_DISTANCE_WORDS_H_
#define EDGECONV_COMMON_CUDA_DISTANCE_WORDS_H_

#include "common/cuda_distance_tile.h"

namespace {

// k, the words of a filter: channels are outermost where they are planes, innermost where they lie together. Words are
// copied in units of one or four.
struct WordOrder {
  int per_word;  // elements
  int unit;      // words
  bool planar;
  int depth;        // units a tap
  int count;        // units of all taps
  int stage_words;  // k is a multiple of it
  int steps;        // stages
};

inline WordOrder word_order(const DistanceShape& shape, int per_word, int unit, int stage_words, bool planar) {
  WordOrder order = {per_word, unit, planar, divide_up(shape.depth, per_word * unit), 0, stage_words, 0};
  order.count = order.depth * shape.kernel_height * shape.kernel_width;
  order.steps = divide_up(order.count * unit, stage_words);
  return order;
}

// Places in packed filters.
struct PackedWords {
  bool rows;             // of words for each filter; otherwise of filters for each word
  int pitch;             // words from one row to the next
  int64_t filters, end;  // bytes; the table of taps begins
};

inline PackedWords packed_words(const DistanceShape& shape, const WordOrder& order, bool rows) {
  PackedWords packed = {};
  const int words = order.steps * order.stage_words, filters = divide_up(shape.filters, 4) * 4;
  packed.rows = rows;
  packed.pitch = rows ? words : filters;
  packed.filters = static_cast<int64_t>(words / order.unit) * static_cast<int64_t>(sizeof(TapWord));
  packed.end = packed.filters + static_cast<int64_t>(shape.groups) * words * filters * 4;
  return packed;
}

struct TapIndex {
  int channel, row, column;  // the channel in units
};

__device__ __forceinline__ TapIndex tap_index(const DistanceShape& shape, const WordOrder& order, int unit) {
  const int area = shape.kernel_height * shape.kernel_width;
  const int channel = order.planar ? unit / area : unit % order.depth;
  const int tap = order.planar ? unit % area : unit / order.depth;
  return {channel, tap / shape.kernel_width, tap % shape.kernel_width};
}

__global__ void __launch_bounds__(256)
    pack_taps(const DistanceShape shape, const WordOrder order, int element_bytes, TapWord* to) {
  const int unit = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (unit >= order.steps * order.stage_words / order.unit) return;
  TapWord word = {0, 0, 0, 0};
  if (unit < order.count) {
    const TapIndex tap = tap_index(shape, order, unit);
    const int elements = order.per_word * order.unit;
    word.channel = tap.channel * order.unit;
    word.y = tap.row * shape.dilation_height;
    word.x = tap.column * shape.dilation_width;
    word.bytes = min(elements, shape.depth - tap.channel * elements) * element_bytes;
  }
  to[unit] = word;
}

// Source makes an element's bits: uint32_t operator()(int filter, int tap), with filters counted through all groups
// and taps in the order of ONNX.
template <class Source>
__global__ void __launch_bounds__(256) pack_filters(const DistanceShape shape, const WordOrder order,
                                                    const PackedWords packed, const Source source, uint32_t* to) {
  const int words = order.steps * order.stage_words, filters = divide_up(shape.filters, 4) * 4;
  const int64_t count = static_cast<int64_t>(shape.groups) * words * filters;
  const int64_t step = static_cast<int64_t>(gridDim.x) * 256;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; at < count; at += step) {
    const int row = static_cast<int>(at / packed.pitch), column = static_cast<int>(at % packed.pitch);
    const int filter = packed.rows ? row % filters : column, group = row / (packed.rows ? filters : words);
    const int k = packed.rows ? column : row % words, unit = k / order.unit;
    uint32_t word = 0;
    if (unit < order.count && filter < shape.filters) {
      const TapIndex tap = tap_index(shape, order, unit);
      for (int i = 0; i < order.per_word; ++i) {
        const int channel = (tap.channel * order.unit + k % order.unit) * order.per_word + i;
        if (channel >= shape.depth) break;
        const int place = (channel * shape.kernel_height + tap.row) * shape.kernel_width + tap.column;
        word |= source(group * shape.filters + filter, place) << (32 / order.per_word * i);
      }
    }
    to[at] = word;
  }
}

template <class Source>
cudaError_t launch_packing(const DistanceShape& shape, const WordOrder& order, const PackedWords& packed,
                           int element_bytes, const Source& source, void* to, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 4096;
  const int units = order.steps * order.stage_words / order.unit;
  const cudaError_t error = EDGECONV_LAUNCH(pack_taps, dim3(divide_up(units, 256)), dim3(256), 0, stream, shape, order,
                                            element_bytes, static_cast<TapWord*>(to));
  if (error != cudaSuccess) return error;
  const int64_t blocks = divide_up<int64_t>((packed.end - packed.filters) / 4, 256);
  return EDGECONV_LAUNCH(pack_filters<Source>, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                         dim3(256), 0, stream, shape, order, packed, source,
                         reinterpret_cast<uint32_t*>(static_cast<char*>(to) + packed.filters));
}

// What gather_words reads and writes: pixels of words, group after group.
struct Gathering {
  Strides strides;  // of the elements
  bool planar;
  int pixels, plane;  // of all images, of one
  int width;
  int groups, depth;  // elements a group
  int words;          // of all groups, a pixel
  int group_words;
};

constexpr int kGatherTile = 32, kGatherRows = 8;

// A block a tile of pixels and words, through shared memory where elements of a channel follow each other.
// Source has kPerWord and makes an element's bits: uint32_t operator()(const Element*).
template <class Source>
__global__ void __launch_bounds__(kGatherTile* kGatherRows)
    gather_words(const Gathering from, const Source source, const typename Source::Element* x, uint32_t* to) {
  EDGECONV_SHARED(uint32_t, tile, [kGatherTile][kGatherTile + 1]);
  const int lane = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  const int word_blocks = divide_up(from.words, kGatherTile);
  const int first_word = static_cast<int>(blockIdx.x) % word_blocks * kGatherTile;
  const int first_pixel = static_cast<int>(blockIdx.x) / word_blocks * kGatherTile;
  for (int i = row; i < kGatherTile; i += kGatherRows) {
    const int word = first_word + (from.planar ? i : lane), pixel = first_pixel + (from.planar ? lane : i);
    uint32_t bits = 0;
    if (word < from.words && pixel < from.pixels) {
      const int group = word / from.group_words, channel = word % from.group_words * Source::kPerWord;
      const int image = pixel / from.plane, place = pixel % from.plane;
      const int at = image * from.strides.image + group * from.strides.group + place * from.strides.column +
                     channel * from.strides.channel;
#pragma unroll
      for (int k = 0; k < Source::kPerWord; ++k) {
        if (channel + k < from.depth) bits |= source(x + at + k * from.strides.channel) << (32 / Source::kPerWord * k);
      }
    }
    tile[from.planar ? i : lane][from.planar ? lane : i] = bits;
  }
  __syncthreads();
  for (int i = row; i < kGatherTile; i += kGatherRows) {
    const int word = first_word + lane, pixel = first_pixel + i;
    if (word < from.words && pixel < from.pixels) to[static_cast<int64_t>(pixel) * from.words + word] = tile[lane][i];
  }
}

template <class Source>
cudaError_t launch_gathering(const DistanceShape& shape, bool planar, int pitch, int group_words, const Source& source,
                             const typename Source::Element* x, uint32_t* to, cudaStream_t stream) {
  Gathering from = {};
  from.strides = activation_strides(planar, shape.depth, shape.groups, shape.in_height, shape.in_width, pitch);
  from.planar = planar;
  from.plane = shape.in_height * shape.in_width;
  from.pixels = shape.batch * from.plane;
  from.groups = shape.groups, from.depth = shape.depth;
  from.group_words = group_words;
  from.words = shape.groups * from.group_words;
  const int blocks = divide_up(from.words, kGatherTile) * divide_up(from.pixels, kGatherTile);
  return EDGECONV_LAUNCH(gather_words<Source>, dim3(blocks), dim3(kGatherTile, kGatherRows), 0, stream, from, source, x,
                         to);
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_DISTANCE_WORDS_H_
