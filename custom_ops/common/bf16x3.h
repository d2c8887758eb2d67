// Sums of products on tiles (tiles.h), each factor the sum of two bfloat16 numbers: x.w is taken as
// high.high + high.low + low.high, in float32 sums. The fourth product, low.low, is of the size of the error that
// rounding the low parts makes anyhow: about 2^-17 of each product.
//
// Operands: packed filters and strips as bf16x3_packing.h lays them out. A tile of weights has sixteen output channels
// for rows, a tile of the input sixteen positions for columns, read straight from the strips; so the sums of an output
// channel at sixteen positions are one vector, and nothing is transposed. Two by two tiles of sums share what is
// loaded: twelve products for eight loads.
//
// For values within the bounds of bf16x3_serves(): subnormal numbers count as zero here. Simd16 is named Simd before
// this file is included.
#ifndef EDGECONV_COMMON_BF16X3_H_
#define EDGECONV_COMMON_BF16X3_H_

#include <immintrin.h>

#include "common/bf16x3_packing.h"
#include "common/patch_strips.h"
#include "common/tiles.h"

namespace {

static_assert(kTileSide == kBf16x3Side && Simd::kLanes == kTileSide, "a row of a tile is a vector");

// Whether numbers up to `largest` of one factor can be split and multiplied: products below the normal numbers, and low
// parts below them, are then far below the largest product's last digit. False for NaN.
inline bool bf16x3_serves(float largest) { return largest == 0.0f || (largest >= 0x1p-40f && largest < 0x1p60f); }

// Both parts of sixteen pairs; the first of a pair has the low 16 bits of a lane.
struct SplitPairs {
  Simd::Float high, low;
};

inline SplitPairs split_pairs(Simd::Float first, Simd::Float second) {
  // Lane i takes elements i and 16 + i of the conversion.
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i order =
      _mm512_add_epi32(_mm512_set1_epi32(16 << 16), _mm512_or_si512(lanes, _mm512_slli_epi32(lanes, 16)));
  const __m512i high = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  const Simd::Float first_high = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
  const Simd::Float second_high = _mm512_castsi512_ps(_mm512_and_si512(high, _mm512_set1_epi32(-0x10000)));
  const __m512i low = _mm512_permutexvar_epi16(
      order, (__m512i)_mm512_cvtne2ps_pbh(Simd::sub(second, second_high), Simd::sub(first, first_high)));
  return {_mm512_castsi512_ps(high), _mm512_castsi512_ps(low)};
}

inline void store_upto(float* to, Simd::Float value, int64_t count) {
  if (count >= Simd::kLanes) {
    Simd::store(to, value);
  } else {
    Simd::store_first(to, value, static_cast<int>(count));
  }
}

template <typename Element>
inline Simd::Float load_upto(const Element* from, int64_t count) {
  return count >= Simd::kLanes ? Simd::load(from) : Simd::load_first(from, static_cast<int>(count));
}

// Splits a row of two channels, the second of which may be missing.
template <typename Element>
inline void split_row(const Element* first, const Element* second, const RowSpan& span, float* high, float* low) {
  fill_zeros(high, span.begin);
  fill_zeros(low, span.begin);
  for (int64_t i = span.begin; i < span.end; i += Simd::kLanes) {
    const int64_t count = span.end - i, column = span.first + i;
    const SplitPairs pairs = split_pairs(load_upto(first + column, count),
                                         second != nullptr ? load_upto(second + column, count) : Simd::zero());
    store_upto(high + i, pairs.high, count);
    store_upto(low + i, pairs.low, count);
  }
  fill_zeros(high + span.end, span.columns - span.end);
  fill_zeros(low + span.end, span.columns - span.end);
}

// to[i] = from[i * stride] for i < count. May read up to 2 * kLanes pairs beyond.
inline void take_columns(const float* from, int64_t stride, int64_t count, float* to) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
  for (int64_t i = 0; i < count; i += Simd::kLanes) {
    Simd::Float pairs;
    if (stride == 1) {
      pairs = Simd::load(from + i);
    } else if (stride == 2) {
      pairs = Simd::load_even(from + 2 * i);
    } else {
      const __mmask16 wanted = count - i >= Simd::kLanes ? 0xffff : Simd::first_lanes(static_cast<int>(count - i));
      pairs = _mm512_mask_i32gather_ps(Simd::zero(), wanted, places, from + i * stride, sizeof(float));
    }
    store_upto(to + i, pairs, count - i);
  }
}

// One step's tiles of the input, from the tile's first position.
struct TileStep {
  int64_t offset, stride;  // in floats
};

// What a block of input channels makes of the input.
struct Bf16x3Strips {
  TileStep steps[kBf16x3MostSteps];
  int64_t step_count;
  int64_t low;  // from the high parts to the low parts, in floats
};

// Fills `strips` for pairs [first_pair, first_pair + pairs) of channels of the group's input `x`. `work` has room for
// two split rows.
template <typename Element>
void fill_split_strips(const EdgeconvConvShape& shape, const PositionBlock& block, const Element* x, int64_t first_pair,
                       int64_t pairs, float* strips, float* work, Bf16x3Strips* result) {
  const int64_t channels = shape.in_channels / shape.group, area = shape.in_height * shape.in_width;
  const int64_t taps = shape.kernel_width, tiles = edgeconv_bf16x3_tiles(taps * pairs);
  const EdgeconvBf16x3Sets sets = edgeconv_bf16x3_sets(&shape, block.rows);
  const int64_t row_floats = edgeconv_bf16x3_row_floats(&shape, block.columns);
  const int64_t columns = (block.columns - 1) * shape.stride_width + (taps - 1) * shape.dilation_width + 1;
  const RowSpan span(shape.in_width, block.column * shape.stride_width - shape.pad_left, 1, columns);
  // A row that is taken as it is needs no copy.
  const bool as_it_is = taps == 1 && shape.stride_width == 1;

  int64_t total = 0;
  for (int64_t set = 0; set < sets.count; ++set) {
    const int64_t length = edgeconv_bf16x3_set_rows(&sets, set, block.rows) * block.columns;
    if (length > 0) total += edgeconv_bf16x3_pitch(length) * tiles * kTileSide;
  }
  result->low = total;
  result->step_count = shape.kernel_height * tiles;

  float* to = strips;
  for (int64_t set = 0; set < sets.count; ++set) {
    const int64_t rows = edgeconv_bf16x3_set_rows(&sets, set, block.rows), length = rows * block.columns;
    if (length == 0) continue;
    const int64_t pitch = edgeconv_bf16x3_pitch(length);
    for (int64_t i = 0; i < shape.kernel_height; ++i) {
      const int64_t distance = i * shape.dilation_height;
      if ((sets.shared ? distance % shape.stride_height : i) != set) continue;
      const int64_t shift = sets.shared ? distance / shape.stride_height : 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        result->steps[i * tiles + tile] = {(to - strips) + tile * kTileSide * pitch + shift * block.columns, pitch};
      }
    }
    const int64_t first_row =
        block.row * shape.stride_height - shape.pad_top + (sets.shared ? set : set * shape.dilation_height);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t channel = 2 * (first_pair + pair);
      const Element* const first = x + channel * area;
      const Element* const second = channel + 1 < channels ? first + area : nullptr;
      float* const strip = to + pair * pitch;  // of the first tap
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = first_row + r * shape.stride_height;
        float* const high = strip + r * block.columns;
        if (row < 0 || row >= shape.in_height) {
          for (int64_t j = 0; j < taps; ++j) {
            fill_zeros(high + j * pairs * pitch, block.columns);
            fill_zeros(high + j * pairs * pitch + total, block.columns);
          }
          continue;
        }
        const int64_t at = row * shape.in_width;
        const Element* const other = second != nullptr ? second + at : nullptr;
        if (as_it_is) {
          split_row(first + at, other, span, high, high + total);
          continue;
        }
        split_row(first + at, other, span, work, work + row_floats);
        for (int64_t j = 0; j < taps; ++j) {
          const float* from = work + j * shape.dilation_width;
          float* const of_tap = high + j * pairs * pitch;
          take_columns(from, shape.stride_width, block.columns, of_tap);
          take_columns(from + row_floats, shape.stride_width, block.columns, of_tap + total);
        }
      }
    }
    // What tiles read beyond the strips, and the pairs that do not exist, must not be NaN: its weight is zero.
    for (int64_t strip = 0; strip < tiles * kTileSide; ++strip) {
      const int64_t filled = strip < taps * pairs ? length : 0;
      fill_zeros(to + strip * pitch + filled, pitch - filled);
      fill_zeros(to + strip * pitch + filled + total, pitch - filled);
    }
    to += tiles * kTileSide * pitch;
  }
  fill_zeros(to + total, kTileSide);
}

struct Bf16x3Operands {
  const Bf16x3Strips* strips;
  const float* input;    // the strips at the tile's first position
  const float* weights;  // of the first tile of channels
  int64_t next_weights;  // from there to those of the second, in floats
  float* sums;           // [tile of channels][tile of positions][channel][position]
  bool first;            // overwrite `sums`, or add to what earlier blocks of channels have left there
};

// Tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 the input. Each is loaded when its last user has been issued, and its
// first user comes as late as the others allow.
template <int channels, int positions>
__attribute__((noinline)) void multiply_tiles(const Bf16x3Operands& operands) {
  constexpr bool kBoth = channels > 1 && positions > 1;
  constexpr int64_t kLow = kBf16x3StepFloats / 2;  // from the high parts of the weights to the low parts
  float* const sums = operands.sums;
  publish_to_tiles();
  if (operands.first) {
    TILE_ZERO(0);
    if (positions > 1) TILE_ZERO(1);
    if (channels > 1) TILE_ZERO(2);
    if (kBoth) TILE_ZERO(3);
  } else {
    TILE_LOAD(0, sums, kTileBytes);
    if (positions > 1) TILE_LOAD(1, sums + kTileFloats, kTileBytes);
    if (channels > 1) TILE_LOAD(2, sums + 2 * kTileFloats, kTileBytes);
    if (kBoth) TILE_LOAD(3, sums + 3 * kTileFloats, kTileBytes);
  }
  const float *weights = operands.weights, *next = weights + operands.next_weights;
  const TileStep* const end = operands.strips->steps + operands.strips->step_count;
  for (const TileStep* step = operands.strips->steps; step != end;
       ++step, weights += kBf16x3StepFloats, next += kBf16x3StepFloats) {
    const float* const high = operands.input + step->offset;
    const float* const low = high + operands.strips->low;
    const int64_t stride = step->stride * static_cast<int64_t>(sizeof(float));
    // High parts of the weights, low parts of the input.
    TILE_LOAD(4, weights, kTileBytes);
    TILE_LOAD(6, low, stride);
    TILE_DOT_BF16(0, 4, 6);
    if (positions > 1) {
      TILE_LOAD(7, low + kTileSide, stride);
      TILE_DOT_BF16(1, 4, 7);
    }
    if (channels > 1) {
      TILE_LOAD(5, next, kTileBytes);
      TILE_DOT_BF16(2, 5, 6);
    }
    TILE_LOAD(6, high, stride);
    if (kBoth) TILE_DOT_BF16(3, 5, 7);
    if (positions > 1) TILE_LOAD(7, high + kTileSide, stride);
    // High parts of both.
    TILE_DOT_BF16(0, 4, 6);
    if (positions > 1) TILE_DOT_BF16(1, 4, 7);
    TILE_LOAD(4, weights + kLow, kTileBytes);
    if (channels > 1) TILE_DOT_BF16(2, 5, 6);
    if (kBoth) TILE_DOT_BF16(3, 5, 7);
    if (channels > 1) TILE_LOAD(5, next + kLow, kTileBytes);
    // Low parts of the weights, high parts of the input.
    TILE_DOT_BF16(0, 4, 6);
    if (positions > 1) TILE_DOT_BF16(1, 4, 7);
    if (channels > 1) TILE_DOT_BF16(2, 5, 6);
    if (kBoth) TILE_DOT_BF16(3, 5, 7);
  }
  TILE_STORE(0, sums, kTileBytes);
  if (positions > 1) TILE_STORE(1, sums + kTileFloats, kTileBytes);
  if (channels > 1) TILE_STORE(2, sums + 2 * kTileFloats, kTileBytes);
  if (kBoth) TILE_STORE(3, sums + 3 * kTileFloats, kTileBytes);
}

inline void multiply_tiles(const Bf16x3Operands& operands, int64_t channels, int64_t positions) {
  if (channels > kTileSide) {
    positions > kTileSide ? multiply_tiles<2, 2>(operands) : multiply_tiles<2, 1>(operands);
  } else {
    positions > kTileSide ? multiply_tiles<1, 2>(operands) : multiply_tiles<1, 1>(operands);
  }
}

// Places in the scratch, in floats from their beginning; see bf16x3_packing.h for their sizes.
struct Bf16x3Scratch {
  float *strips, *sums, *work;
};

// Sums of products for output channels [first_channel, last_channel) of a group at the positions of `block`, which are
// consecutive in the output. `packed` holds the filters of all groups; first_channel is a multiple of kTileSide.
// finish(sums, channel, position) gets each two by two tiles when their last input channel is in.
template <typename Element, typename Finish>
void bf16x3_products(const EdgeconvConvShape& shape, int64_t block_pairs, const PositionBlock& block, const Element* x,
                     const float* packed, int64_t group, int64_t first_channel, int64_t last_channel,
                     const Bf16x3Scratch& scratch, const Finish& finish) {
  constexpr int64_t kTwo = 2 * kTileSide;
  const int64_t positions = block.rows * block.columns, all_pairs = edgeconv_bf16x3_pairs(&shape);
  const bool whole = all_pairs <= block_pairs;
  use_tiles();
  Bf16x3Strips strips;
  for (int64_t pair = 0; pair < all_pairs; pair += block_pairs) {
    const int64_t pairs = pair + block_pairs < all_pairs ? block_pairs : all_pairs - pair;
    const bool last = pair + pairs == all_pairs;
    fill_split_strips(shape, block, x, pair, pairs, scratch.strips, scratch.work, &strips);
    float* sums = scratch.sums;
    for (int64_t position = 0; position < positions; position += kTwo) {
      for (int64_t channel = first_channel; channel < last_channel; channel += kTwo) {
        const float* const weights = packed + edgeconv_bf16x3_offset(&shape, block_pairs, group, pair, channel);
        multiply_tiles(
            {&strips, scratch.strips + position, weights, strips.step_count * kBf16x3StepFloats, sums, pair == 0},
            last_channel - channel, positions - position);
        if (last) finish(sums, channel, position);
        if (!whole) sums += 4 * kTileFloats;
      }
    }
  }
  release_tiles();
}

}  // namespace

#endif  // EDGECONV_COMMON_BF16X3_H_
