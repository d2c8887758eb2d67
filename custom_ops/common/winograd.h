// Winograd's F(2 x 2, 3 x 3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section
// 4.1): outputs of a 3 x 3 convolution of stride 1 in tiles of 2 x 2, each from 4 x 4 inputs, by 16 products for each
// pair of channels in place of 36.
//
//   Y = A' [ sum over channels (G g G') * (B' d B) ] A        * is elementwise, ' transposes
//
//   B' = 1  0 -1  0     G = 1    0    0     A' = 1 1  1  0
//        0  1  1  0         1/2  1/2  1/2        0 1 -1 -1
//        0 -1  1  0         1/2 -1/2  1/2
//        0  1  0 -1         0    0    1
//
// One row of B' at a time: the four products of a row of the transformed tile are made for all channels, their sums are
// reduced by A and added to the outputs that A' gives them to. So a quarter of the transformed input is held at once.
// The sums over the channels are register tiles (micro_kernel.h), whose lanes are tiles of the output.
//
// Error: an output is off by some 12 * eps * max|d| * (sum of |g|) for each channel, d being its own 3 x 3 inputs. That
// is the bound of a norm: an input that is far larger than the others costs digits even where its tap is zero.
#ifndef EDGECONV_COMMON_WINOGRAD_H_
#define EDGECONV_COMMON_WINOGRAD_H_

#include "common/micro_kernel.h"
#include "common/patch_sums.h"
#include "common/winograd_packing.h"

namespace {

// Whether no sum overflows. False for NaN.
inline bool winograd_serves(float largest_input, float largest_weight) {
  constexpr float kLimit = 0x1p40f;
  return largest_input < kLimit && largest_weight < kLimit;
}

// Where a block of output positions lies in tiles, and the scratch of a task.
struct WinogradBlock {
  int64_t rows, columns;  // of tiles
  int64_t stride;         // floats from one channel's tiles to the next: rows * columns, rounded up to vectors
  float* transformed;     // [4][channels][stride]
  float* sums;            // [4][kWinogradGroup][kMostPositions]
  float* outputs;         // [out channels of the task][4][stride]
  float* zeros;           // a row of the padding: 2 * columns + 2
};

// The last vector of a row of tiles may run over the plane's end.
inline int64_t plane_floats(int64_t channels, int64_t stride) { return channels * stride + Simd::kLanes; }

// The lanes [begin, end) of a vector that lie in the input: the others are padding.
struct InsideLanes {
  int begin, end;

  InsideLanes(const RowSpan& span, int64_t column) : begin(clamp(span.begin - column)), end(clamp(span.end - column)) {}

  static int clamp(int64_t lane) {
    return static_cast<int>(lane < 0 ? 0 : lane > Simd::kLanes ? int64_t{Simd::kLanes} : lane);
  }
};

// One row of B' d B for up to kLanes tiles of a row of tiles. `a` and `b` are where the tiles' first column is in the
// two rows of d, `inside` the lanes of their kVectors vectors from there.
template <int kVectors, typename Element>
inline void transform_tiles(const Element* a, const Element* b, Simd::Float sign, const InsideLanes* inside,
                            int64_t plane, float* to) {
  Simd::Float row[3] = {Simd::zero(), Simd::zero(), Simd::zero()};
  for (int i = 0; i < kVectors; ++i) {
    const int begin = inside[i].begin, end = inside[i].end;
    row[i] = Simd::fma(sign, Simd::load_between(b + i * Simd::kLanes, begin, end),
                       Simd::load_between(a + i * Simd::kLanes, begin, end));
  }
  const Simd::Float d0 = Simd::even_of(row[0], row[1]), d1 = Simd::odd_of(row[0], row[1]);
  const Simd::Float d2 = Simd::next_of(d0, row[2]), d3 = Simd::next_of(d1, Simd::odd_of(row[2], row[2]));
  Simd::store(to, Simd::sub(d0, d2));
  Simd::store(to + plane, Simd::add(d1, d2));
  Simd::store(to + 2 * plane, Simd::sub(d2, d1));
  Simd::store(to + 3 * plane, Simd::sub(d1, d3));
}

// … for the tiles from `column` on of every channel and row of tiles of the block.
template <int kVectors, typename Element>
void transform_columns(const EdgeconvConvShape& shape, const PositionBlock& positions, const WinogradBlock& block,
                       const Element* x, int step, int64_t column) {
  // Rows of d in a row of B', and the sign of the second.
  constexpr int kRowA[4] = {0, 1, 2, 1};
  constexpr int kRowB[4] = {2, 2, 1, 3};
  const Simd::Float sign = Simd::set(step == 1 ? 1.0f : -1.0f);
  const int64_t channels = shape.in_channels / shape.group;
  const int64_t plane = plane_floats(channels, block.stride);
  const RowSpan span(shape.in_width, positions.column - shape.pad_left, 1, 2 * block.columns + 2);
  const InsideLanes inside[3] = {
      {span, 2 * column}, {span, 2 * column + Simd::kLanes}, {span, 2 * column + 2 * Simd::kLanes}};
  const int64_t top = positions.row - shape.pad_top;
  for (int64_t channel = 0; channel < channels; ++channel) {
    const Element* const input = x + channel * shape.in_height * shape.in_width + span.first + 2 * column;
    const auto row_of = [&](int64_t row) {
      const bool is_inside = row >= 0 && row < shape.in_height;
      return is_inside ? input + row * shape.in_width : reinterpret_cast<const Element*>(block.zeros) + 2 * column;
    };
    float* to = block.transformed + channel * block.stride + column;
    for (int64_t r = 0; r < block.rows; ++r, to += block.columns) {
      transform_tiles<kVectors>(row_of(top + 2 * r + kRowA[step]), row_of(top + 2 * r + kRowB[step]), sign, inside,
                                plane, to);
    }
  }
}

// One row of B' d B, for every channel and tile of the block: four planes. Whole vectors are written; what lies beyond
// a row of tiles is overwritten by the next one, so the last columns come first.
template <typename Element>
void transform_input(const EdgeconvConvShape& shape, const PositionBlock& positions, const WinogradBlock& block,
                     const Element* x, int step) {
  for (int64_t column = (block.columns - 1) / Simd::kLanes * Simd::kLanes; column >= 0; column -= Simd::kLanes) {
    const int64_t needed = 2 * (block.columns - column) + 2;
    if (needed <= Simd::kLanes) {
      transform_columns<1>(shape, positions, block, x, step, column);
    } else if (needed <= 2 * Simd::kLanes) {
      transform_columns<2>(shape, positions, block, x, step, column);
    } else {
      transform_columns<3>(shape, positions, block, x, step, column);
    }
  }
}

// Adds what row `step` of the products gives to the outputs of one channel, `count` tiles of it: `sums` are the four
// planes, `plane` floats apart; `outputs` the planes of the 2 x 2 outputs, `stride` apart.
template <int step>
inline void transform_output(const float* sums, int64_t plane, int64_t count, float* outputs, int64_t stride) {
  for (int64_t i = 0; i < count; i += Simd::kLanes) {
    const Simd::Float m1 = Simd::load(sums + plane + i), m2 = Simd::load(sums + 2 * plane + i);
    const Simd::Float left = Simd::add(Simd::load(sums + i), Simd::add(m1, m2));
    const Simd::Float right = Simd::sub(Simd::sub(m1, m2), Simd::load(sums + 3 * plane + i));
    float* const top = outputs + i;
    float* const bottom = top + 2 * stride;
    if (step == 0) {
      Simd::store(top, left);
      Simd::store(top + stride, right);
    } else if (step < 3) {
      Simd::store(top, Simd::add(Simd::load(top), left));
      Simd::store(top + stride, Simd::add(Simd::load(top + stride), right));
    }
    if (step == 1) {
      Simd::store(bottom, left);
      Simd::store(bottom + stride, right);
    } else if (step > 1) {
      Simd::store(bottom, Simd::sub(Simd::load(bottom), left));
      Simd::store(bottom + stride, Simd::sub(Simd::load(bottom + stride), right));
    }
  }
}

// The products of row `step` for output channels [first, last), added to block.outputs.
template <int step>
void multiply_row(const WinogradBlock& block, int64_t channels, const float* packed, int64_t padded_channels,
                  int64_t first, int64_t last, const int32_t* offsets) {
  const int64_t plane = plane_floats(channels, block.stride);
  const int64_t tiles = block.rows * block.columns;
  int64_t count = 0;
  for (int64_t tile = 0; tile < tiles; tile += count) {
    count = tile_count(tiles - tile);
    for (int64_t group = first; group < last; group += kWinogradGroup) {
      const int64_t end = last - group < kWinogradGroup ? last : group + kWinogradGroup;
      for (int k = 0; k < 4; ++k) {
        for (int64_t channel = group; channel < end; channel += kRows) {
          const float* weights = packed + edgeconv_winograd_offset(channels, padded_channels, 4 * step + k, channel);
          run_tile<DotProduct>(
              {block.transformed + k * plane + tile, offsets, weights, channels,
               block.sums + (k * kWinogradGroup + channel - group) * kMostPositions, kMostPositions, true},
              kRows, count);
        }
      }
      for (int64_t channel = group; channel < end; ++channel) {
        transform_output<step>(block.sums + (channel - group) * kMostPositions, kWinogradGroup * kMostPositions, count,
                               block.outputs + (channel - first) * 4 * block.stride + tile, block.stride);
      }
    }
  }
}

// Fills block.outputs for output channels [first, last) of the group. `packed` are the group's transformed filters,
// `offsets` room for one number a channel.
template <typename Element>
void winograd_outputs(const EdgeconvConvShape& shape, const PositionBlock& positions, const WinogradBlock& block,
                      const Element* x, const float* packed, int64_t padded_channels, int64_t first, int64_t last,
                      int32_t* offsets) {
  const int64_t channels = shape.in_channels / shape.group;
  for (int64_t channel = 0; channel < channels; ++channel) {
    offsets[channel] = static_cast<int32_t>(channel * block.stride);
  }
  fill_zeros(block.zeros, 2 * block.columns + 2);
  transform_input(shape, positions, block, x, 0);
  multiply_row<0>(block, channels, packed, padded_channels, first, last, offsets);
  transform_input(shape, positions, block, x, 1);
  multiply_row<1>(block, channels, packed, padded_channels, first, last, offsets);
  transform_input(shape, positions, block, x, 2);
  multiply_row<2>(block, channels, packed, padded_channels, first, last, offsets);
  transform_input(shape, positions, block, x, 3);
  multiply_row<3>(block, channels, packed, padded_channels, first, last, offsets);
}

}  // namespace

#endif  // EDGECONV_COMMON_WINOGRAD_H_
