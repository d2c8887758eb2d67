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

// Every second element while whole vectors can be read; returns how many were written.
inline int64_t copy_even(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + Simd::kLanes < count; i += Simd::kLanes) Simd::store(to + i, Simd::load_even(from + 2 * i));
  return i;
}
inline int64_t copy_even(const uint16_t*, int64_t, float*) { return 0; }

// Writes one row of a strip. Whole vectors are written: up to kLanes - 1 floats beyond the end.
template <typename Element>
inline void fill_row(const Element* row, const RowSpan& span, float* to) {
  int64_t i = 0;
  for (; i < span.begin; ++i) to[i] = 0.0f;
  const Element* from = row + (span.first + i * span.stride);
  if (span.stride == 1) {
    for (; i + Simd::kLanes <= span.end; i += Simd::kLanes, from += Simd::kLanes) Simd::store(to + i, Simd::load(from));
    if (i < span.end) Simd::store(to + i, Simd::load_first(from, static_cast<int>(span.end - i)));
  } else {
    if (span.stride == 2) {
      const int64_t copied = copy_even(from, span.end - i, to + i);
      i += copied;
      from += 2 * copied;
    }
    for (; i < span.end; ++i, from += span.stride) to[i] = element_to_float(*from);
  }
  for (i = span.end; i < span.columns; ++i) to[i] = 0.0f;
}

inline void fill_zeros(float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

// A block of output positions: `rows` whole rows, or `columns` columns of one row.
struct PositionBlock {
  int64_t row, rows, column, columns;
};

// Fills `strips` for taps [first_tap, last_tap) of the group's input `x` (channels, height, width) and sets offsets.
template <typename Element>
void fill_strips(const EdgeconvConvShape& shape, const EdgeconvTiling& tiling, const PositionBlock& block,
                 const Element* x, int64_t first_tap, int64_t last_tap, float* strips, int32_t* offsets) {
  const int64_t kernel_width = shape.kernel_width;
  const int64_t area = shape.kernel_height * kernel_width;
  float* to = strips;
  const auto span_of = [&](int64_t column_tap) {
    return RowSpan(shape.in_width,
                   block.column * shape.stride_width - shape.pad_left + column_tap * shape.dilation_width,
                   shape.stride_width, block.columns);
  };
  const auto fill = [&](const Element* channel, int64_t row, const RowSpan& span) {
    if (row >= 0 && row < shape.in_height) {
      fill_row(channel + row * shape.in_width, span, to);
    } else {
      fill_zeros(to, block.columns);
    }
    to += block.columns;
  };
  if (!tiling.shared_rows) {
    for (int64_t tap = first_tap; tap < last_tap; ++tap) {
      const Element* channel = x + tap / area * shape.in_height * shape.in_width;
      const int64_t row_tap = tap % area / kernel_width;
      const RowSpan span = span_of(tap % kernel_width);
      offsets[tap - first_tap] = static_cast<int32_t>(to - strips);
      for (int64_t r = 0; r < block.rows; ++r) {
        fill(channel, (block.row + r) * shape.stride_height - shape.pad_top + row_tap * shape.dilation_height,
             span);
      }
    }
  } else {
    // Row r of vertical tap i is input row (block.row + r) * stride - pad + i * dilation; with
    // i * dilation = shift * stride + phase it is row r + shift of the strip of that phase.
    const int64_t reach = (shape.kernel_height - 1) * shape.dilation_height;
    for (int64_t channel = first_tap / area; channel < last_tap / area; ++channel) {
      const Element* input = x + channel * shape.in_height * shape.in_width;
      int32_t* const channel_offsets = offsets + (channel * area - first_tap);
      for (int64_t phase = 0; phase < shape.stride_height; ++phase) {
        int64_t last_shift = -1;
        for (int64_t i = 0; i < shape.kernel_height; ++i) {
          const int64_t distance = i * shape.dilation_height;
          if (distance % shape.stride_height == phase) last_shift = distance / shape.stride_height;
        }
        if (last_shift < 0) continue;
        for (int64_t j = 0; j < kernel_width; ++j) {
          const RowSpan span = span_of(j);
          const int64_t start = to - strips;
          for (int64_t distance = phase; distance <= reach; distance += shape.stride_height) {
            if (distance % shape.dilation_height != 0) continue;
            const int64_t shift = distance / shape.stride_height;
            channel_offsets[distance / shape.dilation_height * kernel_width + j] =
                static_cast<int32_t>(start + shift * block.columns);
          }
          for (int64_t r = 0; r < block.rows + last_shift; ++r) {
            fill(input, (block.row + r) * shape.stride_height - shape.pad_top + phase, span);
          }
        }
      }
    }
  }
  // The last tile may read past its positions: what it finds there must be initialised, and is not used.
  fill_zeros(to, tiling.tile_positions);
}

}  // namespace

#endif  // EDGECONV_COMMON_PATCH_STRIPS_H_
