// The depthwise stage: channels as lanes. Rows of the window are interleaved, so that one lane has kDepth of a
// channel's taps; what is interleaved once serves every position whose window has that column.
//
// Windows of three columns whose rows fit into one group go from column to column with the sums of the results that the
// column is part of in registers; other windows go through interleaved rows in the scratch.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_

#include "qlinear_mobile/qlinear_mobile_tile.h"

namespace {

// Rows of results in one block of channels, so few that all of their windows lie in the same groups of rows.
struct DepthwiseRows {
  const Element* const* rows;  // groups * kDepth rows of the input, a Vector a column
  int64_t groups, window_columns;
  int64_t stride, dilation;   // of columns
  int64_t columns;            // of input that a row of results sees
  Element* interleaved;       // scratch: [group][column][vector]
  Element* y;                 // of the block's first channel
  int64_t y_stride, y_pitch;  // from position to position, from row to row
  int64_t width, height;
  BlockWeights block;  // for each of the rows, the filters where its window lies in the groups
  const Narrowing& narrowing;
};

// Of the results in one block of channels, the sums at one position.
template <int vectors>
struct Sums {
  Dots::Int of[vectors];

  inline void start(const int32_t* bias) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) of[v] = Ints::load(bias + v * Dots::kLanes);
  }
  inline void add(const Dots::Vector* x, const Dots::Vector* w) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) of[v] = Dots::dot(of[v], x[v], w[v]);
  }
};

// The same as narrow(), where there is no register to keep the factors in.
template <int vectors, bool biased, typename D = Dots>
__attribute__((always_inline)) inline Dots::Vector narrow_by(const BlockWeights& block, const Dots::Int* sums,
                                                             const Narrowing& narrowing) {
  if constexpr (biased) {
    Dots::Float multipliers[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) multipliers[v] = Simd::load(block.multipliers + v * Dots::kLanes);
    return D::template narrow_biased<vectors>(sums, multipliers);
  }
  return narrow<vectors, biased>(sums, Factors<vectors, biased>(block), narrowing);
}

// Three columns, a stride of one or two: the column that comes is the last of one result, the middle one of the next
// (not with a stride of two), and the first of the one after.
template <int vectors, bool biased, int stride>
__attribute__((noinline)) void slide_depthwise_row(const DepthwiseRows& row) {
  const Element* rows[Dots::kDepth];
  for (int i = 0; i < Dots::kDepth; ++i) rows[i] = row.rows[i];
  const BlockWeights block = row.block;
  Dots::Vector w[3][vectors];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      w[j][v] = Dots::load(block.weights + (j * vectors + v) * Dots::kLanes * Dots::kDepth);
    }
  }
  Element* y = row.y;
  const int64_t y_stride = row.y_stride;
  int64_t at = 0;
  const auto next = [&](Dots::Vector* to) __attribute__((always_inline)) {
    Dots::interleave(rows, at, to);
    at += kBlock;
  };
  const auto finish = [&](const Sums<vectors>& sums) __attribute__((always_inline)) {
    Dots::store_packed<vectors>(y, narrow_by<vectors, biased>(block, sums.of, row.narrowing));
    y += y_stride;
  };
  Dots::Vector x[Dots::kDepth];
  Sums<vectors> a, b;
  next(x);
  a.start(block.bias);
  a.add(x, w[0]);
  if constexpr (stride == 1) {
    next(x);
    a.add(x, w[1]);
    b.start(block.bias);
    b.add(x, w[0]);
    const auto step = [&](Sums<vectors>& last, Sums<vectors>& middle, Sums<vectors>& first)
                          __attribute__((always_inline)) {
                            next(x);
                            last.add(x, w[2]);
                            middle.add(x, w[1]);
                            first.start(block.bias);
                            first.add(x, w[0]);
                            finish(last);
                          };
    Sums<vectors> c;
    int64_t left = row.width;
    for (; left >= 3; left -= 3) {
      step(a, b, c);
      step(b, c, a);
      step(c, a, b);
    }
    if (left > 0) step(a, b, c);
    if (left > 1) step(b, c, a);
  } else {
    const auto step = [&](Sums<vectors>& last, Sums<vectors>& first) __attribute__((always_inline)) {
      next(x);
      last.add(x, w[1]);
      next(x);
      last.add(x, w[2]);
      first.start(block.bias);
      first.add(x, w[0]);
      finish(last);
    };
    int64_t left = row.width;
    for (; left >= 2; left -= 2) {
      step(a, b);
      step(b, a);
    }
    if (left > 0) step(a, b);
  }
}

template <int vectors>
inline void interleave_rows(const DepthwiseRows& rows, int64_t groups) {
  Element* to = rows.interleaved;
  for (int64_t group = 0; group < groups; ++group) {
    const Element* const* const from = rows.rows + group * Dots::kDepth;
    for (int64_t column = 0; column < rows.columns; ++column, to += vectors * kBlock) {
      Dots::Vector parts[Dots::kDepth];
      Dots::interleave(from, column * kBlock, parts);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) Dots::store(to + v * kBlock, parts[v]);
    }
  }
}

// `tiles` tiles of `height` x `positions` results, from row `first` and position `position` on.
template <int vectors, bool biased, int height, int positions>
__attribute__((noinline)) void depthwise_tiles(const DepthwiseRows& rows, int64_t first, int64_t position,
                                               int64_t tiles) {
  constexpr int64_t kColumn = vectors * kBlock, kWeights = vectors * Dots::kLanes * Dots::kDepth;
  const BlockWeights block = rows.block;
  const int64_t next = rows.stride * kColumn, step = rows.dilation * kColumn;
  const int64_t window_columns = rows.window_columns, group = rows.columns * kColumn, groups = rows.groups;
  const int64_t variant = groups * window_columns * kWeights;
  const Element* start = rows.interleaved + position * next;
  Element* y = rows.y + first * rows.y_pitch + position * rows.y_stride;
  for (int64_t tile = 0; tile < tiles; ++tile, start += positions * next) {
    Dots::Int sums[height][positions][vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Dots::Int bias = Ints::load(block.bias + v * Dots::kLanes);
#pragma GCC unroll 2
      for (int h = 0; h < height; ++h) {
#pragma GCC unroll 8
        for (int p = 0; p < positions; ++p) sums[h][p][v] = bias;
      }
    }
    const Dots::Weight* weights = block.weights + first * variant;
    const Element* x = start;
    for (int64_t i = 0; i < groups; ++i, x += group) {
      const Element* from = x;
      for (int64_t j = 0; j < window_columns; ++j, from += step, weights += kWeights) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          Dots::Vector w[height];
#pragma GCC unroll 2
          for (int h = 0; h < height; ++h) w[h] = Dots::load(weights + h * variant + v * Dots::kLanes * Dots::kDepth);
#pragma GCC unroll 8
          for (int p = 0; p < positions; ++p) {
            const Dots::Vector value = Dots::load(from + p * next + v * kBlock);
#pragma GCC unroll 2
            for (int h = 0; h < height; ++h) sums[h][p][v] = Dots::dot(sums[h][p][v], value, w[h]);
          }
        }
      }
    }
    const Factors<vectors, biased> factors(block);
#pragma GCC unroll 8
    for (int p = 0; p < positions; ++p, y += rows.y_stride) {
#pragma GCC unroll 2
      for (int h = 0; h < height; ++h) {
        Dots::Int done[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) done[v] = sums[h][p][v];
        Dots::store_packed<vectors>(y + h * rows.y_pitch, narrow<vectors, biased>(done, factors, rows.narrowing));
      }
    }
  }
}

template <int vectors, bool biased, int height, int positions>
inline void depthwise_tiles_of(int64_t count, const DepthwiseRows& rows, int64_t first, int64_t position,
                               int64_t tiles) {
  if constexpr (positions > 1) {
    if (count < positions) {
      return depthwise_tiles_of<vectors, biased, height, positions - 1>(count, rows, first, position, tiles);
    }
  }
  depthwise_tiles<vectors, biased, height, positions>(rows, first, position, tiles);
}

// `height` rows of results, in tiles as even as can be.
template <int vectors, bool biased, int height>
inline void depthwise_band(const DepthwiseRows& rows, int64_t first) {
  constexpr int kSums = Dots::kPositions[Dots::kVectors] * Dots::kVectors / (2 * vectors),
                kMost = kSums < 4 ? kSums : 4;
  const int64_t tiles = divide_up(rows.width, kMost), each = rows.width / tiles, more = rows.width % tiles;
  if (more > 0) depthwise_tiles_of<vectors, biased, height, kMost>(each + 1, rows, first, 0, more);
  depthwise_tiles_of<vectors, biased, height, kMost>(each, rows, first, more * (each + 1), tiles - more);
}

template <int vectors, bool biased>
inline void run_depthwise_rows_of(const DepthwiseRows& rows) {
  if (rows.height == 1 && rows.groups == 1 && rows.window_columns == 3 && rows.dilation == 1) {
    if (rows.stride == 1) return slide_depthwise_row<vectors, biased, 1>(rows);
    if (rows.stride == 2) return slide_depthwise_row<vectors, biased, 2>(rows);
  }
  interleave_rows<vectors>(rows, rows.groups);
  int64_t row = 0;
  for (; row + 2 <= rows.height; row += 2) depthwise_band<vectors, biased, 2>(rows, row);
  if (row < rows.height) depthwise_band<vectors, biased, 1>(rows, row);
}

template <bool biased>
inline void run_depthwise_rows(int64_t vectors, const DepthwiseRows& rows) {
  if constexpr (Dots::kVectors == 4) {
    if (vectors == 4) return run_depthwise_rows_of<4, biased>(rows);
    if (vectors == 3) return run_depthwise_rows_of<3, biased>(rows);
  }
  if (vectors == 2) return run_depthwise_rows_of<2, biased>(rows);
  run_depthwise_rows_of<1, biased>(rows);
}

inline void run_depthwise_rows(int64_t vectors, const DepthwiseRows& rows) {
  if constexpr (Dots::kBiased) {
    if (rows.narrowing.biased) return run_depthwise_rows<true>(vectors, rows);
  }
  run_depthwise_rows<false>(vectors, rows);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_
