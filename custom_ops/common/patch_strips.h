// Implicit im2col. A strip holds, for one input channel and one horizontal tap, the padded and strided input values
// that a block of output positions sees, row after row. A vertical tap is then only an offset into the strip: filters
// of kH x kW taps need kW copies of the input, not kH * kW, and the register tile reads the strips directly.
//
// Where rows do not overlap (1 x 1 kernels, large dilations or strides) or filters are very large, each tap gets a
// strip of its own. The type Simd is named before this file is included.
#ifndef EDGECONV_COMMON_PATCH_STRIPS_H_
#define EDGECONV_COMMON_PATCH_STRIPS_H_

#include "common/conv_shape.h"
#include "common/tiling.h"

namespace {

// Which columns of the input a row of a strip takes: first, first + stride, …; outside [begin, end) they lie in the
// padding.
struct RowSpan {
  int64_t first, stride, columns, begin, end;

  RowSpan(int64_t width, int64_t first_column, int64_t stride_width, int64_t count)
      : first(first_column), stride(stride_width), columns(count) {
    if (stride == 1) {
      begin = -first;
      end = width - first;
    } else {
      begin = first < 0 ? (-first + stride - 1) / stride : 0;
      end = first < width ? (width - 1 - first) / stride + 1 : 0;
    }
    begin = begin < 0 ? 0 : begin > columns ? columns : begin;
    end = end < begin ? begin : end > columns ? columns : end;
  }
};

// The last, incomplete vector of a row: as it is, or whole, which is faster where what lies beyond is written later.
enum class RowEnd { kExact, kWholeVector };

template <RowEnd end>
inline void store_end(float* to, Simd::Float value, int count) {
  if (end == RowEnd::kWholeVector) {
    Simd::store(to, value);
  } else {
    Simd::store_first(to, value, count);
  }
}

// to[i] = from[2 * i]
template <RowEnd end>
inline void copy_every_second(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + Simd::kLanes < count; i += Simd::kLanes) Simd::store(to + i, Simd::load_even(from + 2 * i));
  const int rest = static_cast<int>(count - i);
  if (rest == Simd::kLanes) {
    Simd::store(to + i, Simd::load_even_first(from + 2 * i, rest));
  } else if (rest > 0) {
    store_end<end>(to + i, Simd::load_even_first(from + 2 * i, rest), rest);
  }
}
template <RowEnd>
inline void copy_every_second(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = element_to_float(from[2 * i]);
}

// to[i] = from[i * stride] for i < count.
template <RowEnd end, typename Element>
inline void copy_strided(const Element* from, int64_t count, int64_t stride, float* to) {
  if (stride == 1) {
    int64_t i = 0;
    for (; i + Simd::kLanes <= count; i += Simd::kLanes) Simd::store(to + i, Simd::load(from + i));
    if (i < count) {
      const int rest = static_cast<int>(count - i);
      store_end<end>(to + i, Simd::load_first(from + i, rest), rest);
    }
  } else if (stride == 2) {
    copy_every_second<end>(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = element_to_float(from[i * stride]);
  }
}

template <typename Element>
inline void prefetch_row(const Element* row, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(Element);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + i);
}

// Writes one row of a strip, and up to kLanes - 1 floats beyond.
template <typename Element>
inline void fill_row(const Element* row, const RowSpan& span, float* to) {
  for (int64_t i = 0; i < span.begin; ++i) to[i] = 0.0f;
  copy_strided<RowEnd::kWholeVector>(row + (span.first + span.begin * span.stride), span.end - span.begin, span.stride,
                                     to + span.begin);
  for (int64_t i = span.end; i < span.columns; ++i) to[i] = 0.0f;
}

inline void fill_zeros(float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

// A block of output positions: `rows` whole rows, or `columns` columns of one row.
struct PositionBlock {
  int64_t row, rows, column, columns;
};

// 1 x 1 filters that see each input once, where it is: a channel's positions are a copy of it.
inline bool is_contiguous(const EdgeconvConvShape& shape) {
  return shape.kernel_height * shape.kernel_width == 1 && shape.stride_height == 1 && shape.stride_width == 1 &&
         shape.out_height == shape.in_height && shape.out_width == shape.in_width && shape.pad_top == 0 &&
         shape.pad_left == 0;
}

// Rows of the input: first, first + step, … Some may lie in the padding.
struct InputRows {
  int64_t first, step, count;
};

// Lays out the strips of taps [first_tap, last_tap) and sets offsets. What they hold is up to the source:
// source.fill(channel, rows, tap, taps, to) writes, one after another, the strips of the horizontal taps
// [tap, tap + taps) of a channel, each `rows.count` rows of the block's columns.
template <typename Element, typename Source>
void lay_strips(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, const PositionBlock& block,
                const Source& source, int64_t first_tap, int64_t last_tap, Element* strips, int32_t* offsets) {
  const int64_t kernel_width = shape.kernel_width;
  const int64_t area = shape.kernel_height * kernel_width;
  const int64_t first_row = block.row * shape.stride_height - shape.pad_top;
  Element* to = strips;
  if (!tiling.shared_rows) {
    for (int64_t tap = first_tap; tap < last_tap; ++tap) {
      const int64_t row_tap = tap % area / kernel_width;
      offsets[tap - first_tap] = static_cast<int32_t>(to - strips);
      const InputRows rows = {first_row + row_tap * shape.dilation_height, shape.stride_height, block.rows};
      source.fill(tap / area, rows, tap % kernel_width, 1, to);
      to += block.rows * block.columns;
    }
  } else {
    // Row r of vertical tap i is input row (block.row + r) * stride - pad + i * dilation; with
    // i * dilation = shift * stride + phase it is row r + shift of the strip of that phase.
    const int64_t reach = (shape.kernel_height - 1) * shape.dilation_height;
    for (int64_t channel = first_tap / area; channel < last_tap / area; ++channel) {
      int32_t* const channel_offsets = offsets + (channel * area - first_tap);
      for (int64_t phase = 0; phase < shape.stride_height; ++phase) {
        int64_t last_shift = -1;
        for (int64_t i = 0; i < shape.kernel_height; ++i) {
          const int64_t distance = i * shape.dilation_height;
          if (distance % shape.stride_height == phase) last_shift = distance / shape.stride_height;
        }
        if (last_shift < 0) continue;
        const int64_t size = (block.rows + last_shift) * block.columns;
        for (int64_t distance = phase; distance <= reach; distance += shape.stride_height) {
          if (distance % shape.dilation_height != 0) continue;
          const int64_t shift = distance / shape.stride_height;
          int32_t* const row_offsets = channel_offsets + distance / shape.dilation_height * kernel_width;
          const int64_t at = to - strips + shift * block.columns;
          for (int64_t j = 0; j < kernel_width; ++j) row_offsets[j] = static_cast<int32_t>(at + j * size);
        }
        source.fill(channel, {first_row + phase, shape.stride_height, block.rows + last_shift}, 0, kernel_width, to);
        to += kernel_width * size;
      }
    }
  }
  // The last tile may read past its positions: what it finds there must be initialised, and is not used.
  for (int64_t i = 0; i < tiling.tile_positions; ++i) to[i] = Element();
}

// The elements of a group's input `x` (channels, height, width) as they are, in floats; zeros in the padding.
template <typename Element>
struct PlaneSource {
  const EdgeconvConvShape& shape;
  const PositionBlock& block;
  const Element* x;

  void fill(int64_t channel, const InputRows& rows, int64_t tap, int64_t taps, float* to) const {
    const int64_t area = shape.in_height * shape.in_width;
    const Element* input = x + channel * area;
    for (int64_t j = tap; j < tap + taps; ++j) {
      const RowSpan span(shape.in_width, block.column * shape.stride_width - shape.pad_left + j * shape.dilation_width,
                         shape.stride_width, block.columns);
      for (int64_t r = 0; r < rows.count; ++r, to += block.columns) {
        const int64_t row = rows.first + r * rows.step;
        if (row >= 0 && row < shape.in_height) {
          // Rows of the next channel: too short and too far apart for the hardware to foresee them.
          if (j == tap) prefetch_row(input + area + row * shape.in_width, shape.in_width);
          fill_row(input + row * shape.in_width, span, to);
        } else {
          fill_zeros(to, block.columns);
        }
      }
    }
  }
};

// Fills `strips` for taps [first_tap, last_tap) of the group's input `x` (channels, height, width) and sets offsets.
template <typename Element>
void fill_strips(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, const PositionBlock& block,
                 const Element* x, int64_t first_tap, int64_t last_tap, float* strips, int32_t* offsets) {
  if (is_contiguous(shape)) {
    const int64_t positions = block.rows * block.columns;
    const Element* from = x + block.row * shape.in_width + block.column;
    float* to = strips;
    for (int64_t tap = first_tap; tap < last_tap; ++tap, to += positions) {
      offsets[tap - first_tap] = static_cast<int32_t>(to - strips);
      copy_strided<RowEnd::kWholeVector>(from + tap * shape.in_height * shape.in_width, positions, 1, to);
    }
    fill_zeros(to, tiling.tile_positions);
  } else {
    lay_strips(shape, tiling, block, PlaneSource<Element>{shape, block, x}, first_tap, last_tap, strips, offsets);
  }
}

}  // namespace

#endif  // EDGECONV_COMMON_PATCH_STRIPS_H_
