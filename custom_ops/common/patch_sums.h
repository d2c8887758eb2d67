// What a kernel must know about the patches besides their products with the filters: for each output position of a
// block the sum of x^2 or of x over its patch, and the largest magnitude of all.
//
// Sums over the channels first, then over the window: some operations a position and channel, whatever the number of
// taps. The type Simd is named before this file is included.
#ifndef EDGECONV_COMMON_PATCH_SUMS_H_
#define EDGECONV_COMMON_PATCH_SUMS_H_

#include "common/patch_strips.h"

namespace {

enum class PatchSum { kNone, kValues, kSquares };

// The columns of the input that a block sees.
inline int64_t patch_columns(const EdgeconvConvShape& shape, int64_t block_columns) {
  return (block_columns - 1) * shape.stride_width + (shape.kernel_width - 1) * shape.dilation_width + 1;
}

// The largest lane of magnitudes: NaN is larger than infinity.
inline float largest_lane(Simd::Float magnitudes) {
  float lanes[Simd::kLanes];
  Simd::store(lanes, magnitudes);
  uint32_t largest = 0;
  for (const float lane : lanes) largest = bits_from_float(lane) > largest ? bits_from_float(lane) : largest;
  return float_from_bits(largest);
}

// Adds the row `from` of `count` elements to `sums`, and lets `largest` be no less than their magnitudes.
template <PatchSum kind, typename Element>
inline void add_row(const Element* from, int64_t count, float* sums, Simd::Float* largest) {
  for (int64_t i = 0; i < count; i += Simd::kLanes) {
    const bool whole = count - i >= Simd::kLanes;
    const Simd::Float x = whole ? Simd::load(from + i) : Simd::load_first(from + i, static_cast<int>(count - i));
    *largest = Simd::max_magnitude(*largest, x);
    if (kind == PatchSum::kNone) continue;
    const Simd::Float sum = Simd::load(sums + i);
    Simd::store(sums + i, kind == PatchSum::kSquares ? Simd::fma(x, x, sum) : Simd::add(sum, x));
  }
}

// to[c] = sum over the window's columns of row[c * stride + …], for `count` columns, in whole vectors.
inline void sum_across(const EdgeconvConvShape& shape, const float* row, int64_t count, float* to) {
  for (int64_t c = 0; c < count; c += Simd::kLanes) {
    Simd::Float sum = Simd::zero();
    for (int64_t j = 0; j < shape.kernel_width; ++j) {
      const float* from = row + c * shape.stride_width + j * shape.dilation_width;
      Simd::Float values;
      if (shape.stride_width == 1) {
        values = Simd::load(from);
      } else if (shape.stride_width == 2) {
        values = Simd::load_even(from);
      } else {
        float lanes[Simd::kLanes];
        for (int i = 0; i < Simd::kLanes; ++i) lanes[i] = c + i < count ? from[i * shape.stride_width] : 0.0f;
        values = Simd::load(lanes);
      }
      sum = Simd::add(sum, values);
    }
    Simd::store(to + c, sum);
  }
}

// Which rows of the input a block sees.
struct SeenRows {
  int64_t first, begin, end;  // the first may lie in the padding; [begin, end) do not

  SeenRows(const EdgeconvConvShape& shape, const PositionBlock& block) {
    first = block.row * shape.stride_height - shape.pad_top;
    end = first + (block.rows - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
    begin = first < 0 ? 0 : first;
    if (end > shape.in_height) end = shape.in_height;
  }
};

// The largest magnitude in all channels of the rows that a block sees. `x` is the group's input (channels, height,
// width).
template <typename Element>
float largest_magnitude(const EdgeconvConvShape& shape, const PositionBlock& block, const Element* x) {
  const SeenRows rows(shape, block);
  Simd::Float largest = Simd::zero();
  for (int64_t channel = 0; channel < shape.in_channels / shape.group; ++channel) {
    const Element* from = x + (channel * shape.in_height + rows.begin) * shape.in_width;
    add_row<PatchSum::kNone>(from, (rows.end - rows.begin) * shape.in_width, nullptr, &largest);
  }
  return largest_lane(largest);
}

// Writes to `to` (rows * columns of the block, and kLanes - 1 floats more) the sum over each position's patch and
// returns the largest magnitude that the block sees. `work` has patch_columns() + the block's columns + 4 * kLanes
// floats.
template <PatchSum kind, typename Element>
float patch_sums(const EdgeconvConvShape& shape, const PositionBlock& block, const Element* x, float* work, float* to) {
  const int64_t channels = shape.in_channels / shape.group;
  const int64_t area = shape.in_height * shape.in_width;
  const int64_t columns = patch_columns(shape, block.columns);
  const RowSpan span(shape.in_width, block.column * shape.stride_width - shape.pad_left, 1, columns);
  const SeenRows rows(shape, block);
  float* const across = work + columns + Simd::kLanes;
  Simd::Float largest = Simd::zero();
  fill_zeros(to, block.rows * block.columns);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    fill_zeros(work, columns + Simd::kLanes);
    const Element* from = x + row * shape.in_width + span.first + span.begin;
    for (int64_t channel = 0; channel < channels; ++channel, from += area) {
      add_row<kind>(from, span.end - span.begin, work + span.begin, &largest);
    }
    fill_zeros(work + span.end, columns - span.end);  // what whole vectors have left there
    sum_across(shape, work, block.columns, across);
    for (int64_t i = 0; i < shape.kernel_height; ++i) {
      const int64_t distance = row - rows.first - i * shape.dilation_height;
      if (distance < 0 || distance % shape.stride_height != 0) continue;
      const int64_t out_row = distance / shape.stride_height;
      if (out_row >= block.rows) continue;
      float* sums = to + out_row * block.columns;
      for (int64_t c = 0; c < block.columns; ++c) sums[c] += across[c];
    }
  }
  return largest_lane(largest);
}

}  // namespace

#endif  // EDGECONV_COMMON_PATCH_SUMS_H_
