// The depthwise stage: channels as lanes. Rows of the window are interleaved, so that one lane has kDepth of a
// channel's taps; what is interleaved once serves every position whose window has that column.
//
// Windows of three columns whose rows fit into one group go from column to column with the sums of the results that the
// column is part of in registers; other windows go through interleaved rows in the scratch.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_

#include "qlinear_mobile/qlinear_mobile_tile.h"

namespace {

// One row of results in one block of channels.
struct DepthwiseRow {
  const Element* const* rows;  // of the window, a Vector a column
  int64_t window_rows, window_columns;
  int64_t stride, dilation;  // of columns
  int64_t columns;           // of input that the row of results sees
  Element* interleaved;      // scratch: [group of kDepth rows][column][vector]
  Element* y;                // of the block's first channel
  int64_t y_stride, count;
  BlockWeights block;
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

// Three columns, a stride of one or two: the column that comes is the last of one result, the middle one of the next
// (not with a stride of two), and the first of the one after.
template <int vectors, bool biased, int stride>
__attribute__((noinline)) void slide_depthwise_row(const DepthwiseRow& row) {
  const Element* rows[Dots::kDepth];  // those that the window lacks have weights of 0
  for (int i = 0; i < Dots::kDepth; ++i) rows[i] = row.rows[least_of(i, row.window_rows - 1)];
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
    const Factors<vectors, biased> factors(block);  // there is no register left to keep them in
    Dots::store_packed<vectors>(y, narrow<vectors, biased>(sums.of, factors, row.narrowing));
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
    int64_t left = row.count;
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
    int64_t left = row.count;
    for (; left >= 2; left -= 2) {
      step(a, b);
      step(b, a);
    }
    if (left > 0) step(a, b);
  }
}

template <int vectors>
inline void interleave_rows(const DepthwiseRow& row) {
  Element* to = row.interleaved;
  for (int64_t first = 0; first < row.window_rows; first += Dots::kDepth) {
    const Element* rows[Dots::kDepth];
    for (int i = 0; i < Dots::kDepth; ++i) rows[i] = row.rows[least_of(first + i, row.window_rows - 1)];
    for (int64_t column = 0; column < row.columns; ++column, to += vectors * kBlock) {
      Dots::Vector parts[Dots::kDepth];
      Dots::interleave(rows, column * kBlock, parts);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) Dots::store(to + v * kBlock, parts[v]);
    }
  }
}

// `positions` results from position on.
template <int vectors, bool biased, int positions>
inline void depthwise_tile(const DepthwiseRow& row, int64_t position) {
  const BlockWeights block = row.block;
  Sums<vectors> sums[positions];
#pragma GCC unroll 4
  for (int p = 0; p < positions; ++p) sums[p].start(block.bias);
  const int64_t column = vectors * kBlock, next = row.stride * column, step = row.dilation * column;
  const int64_t window_columns = row.window_columns, group = row.columns * column;
  const Element* x = row.interleaved + position * next;
  const Dots::Weight* weights = block.weights;
  for (int64_t first = 0; first < row.window_rows; first += Dots::kDepth, x += group) {
    const Element* from = x;
    for (int64_t j = 0; j < window_columns; ++j, from += step) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v, weights += Dots::kLanes * Dots::kDepth) {
        const Dots::Vector w = Dots::load(weights);
#pragma GCC unroll 4
        for (int p = 0; p < positions; ++p) {
          sums[p].of[v] = Dots::dot(sums[p].of[v], Dots::load(from + p * next + v * kBlock), w);
        }
      }
    }
  }
  const Factors<vectors, biased> factors(block);
#pragma GCC unroll 4
  for (int p = 0; p < positions; ++p) {
    Dots::store_packed<vectors>(row.y + (position + p) * row.y_stride,
                                narrow<vectors, biased>(sums[p].of, factors, row.narrowing));
  }
}

template <int vectors, bool biased>
__attribute__((noinline)) void depthwise_row(const DepthwiseRow& row) {
  constexpr int kPositions = 4;
  interleave_rows<vectors>(row);
  int64_t position = 0;
  for (; position + kPositions <= row.count; position += kPositions) {
    depthwise_tile<vectors, biased, kPositions>(row, position);
  }
  for (; position < row.count; ++position) depthwise_tile<vectors, biased, 1>(row, position);
}

template <int vectors, bool biased>
inline void run_depthwise_row_of(const DepthwiseRow& row) {
  if (row.window_rows <= Dots::kDepth && row.window_columns == 3 && row.dilation == 1) {
    if (row.stride == 1) return slide_depthwise_row<vectors, biased, 1>(row);
    if (row.stride == 2) return slide_depthwise_row<vectors, biased, 2>(row);
  }
  depthwise_row<vectors, biased>(row);
}

template <bool biased>
inline void run_depthwise_row(int64_t vectors, const DepthwiseRow& row) {
  if constexpr (Dots::kVectors == 4) {
    if (vectors == 4) return run_depthwise_row_of<4, biased>(row);
    if (vectors == 3) return run_depthwise_row_of<3, biased>(row);
  }
  if (vectors == 2) return run_depthwise_row_of<2, biased>(row);
  run_depthwise_row_of<1, biased>(row);
}

inline void run_depthwise_row(int64_t vectors, const DepthwiseRow& row) {
  if constexpr (Dots::kBiased) {
    if (row.narrowing.biased) return run_depthwise_row<true>(vectors, row);
  }
  run_depthwise_row<false>(vectors, row);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_DEPTHWISE_H_
