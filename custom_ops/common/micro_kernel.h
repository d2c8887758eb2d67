// Register tiles over one block of filter taps: kRows output channels by a few vectors of output positions, and for the
// last few positions a narrow tile, whose lanes are the channels.
//
// Shared by every operator that combines each tap of a patch x with each tap of a filter w; how it combines them is a
// compile-time parameter. Simd, RowSimd and kTileVectors are named before this file is
// included (simd_baseline.h).
//
// Operands: packed weights w[tap][kRows], and strips (patch_strips.h), in which the values that one tap sees at
// consecutive positions are consecutive, beginning at offsets[tap].
#ifndef EDGECONV_COMMON_MICRO_KERNEL_H_
#define EDGECONV_COMMON_MICRO_KERNEL_H_

namespace {

constexpr int kRows = RowSimd::kLanes;
constexpr int kNarrow = kRows / 2;  // up to so many positions, broadcasting each costs less than one vector of them

// Floats ahead in the weights. They are read once from start to end, and the hardware stops at the end of each page.
constexpr int kPrefetch = 1024;

enum class Accumulation {
  kDotProduct,           // sum of x * w
  kAbsoluteDifference,   // sum of |x - w|
  kMaximumDifference,    // maximum of |x - w|
};

template <Accumulation kind, typename V>
inline __attribute__((always_inline)) typename V::Float accumulate(typename V::Float sum, typename V::Float x,
                                                                   typename V::Float w) {
  if (kind == Accumulation::kDotProduct) return V::fma(x, w, sum);
  const typename V::Float difference = V::sub(x, w);
  if (kind == Accumulation::kAbsoluteDifference) return V::add(sum, V::abs(difference));
  return V::max_magnitude(sum, difference);
}

// Two sums of different taps become one.
template <Accumulation kind, typename V>
inline typename V::Float combine(typename V::Float a, typename V::Float b) {
  return kind == Accumulation::kMaximumDifference ? V::max_magnitude(a, b) : V::add(a, b);
}

struct TileOperands {
  const float* strips;     // at the tile's first position
  const int32_t* offsets;  // one a tap
  const float* weights;    // [taps][kRows]
  int64_t taps;
  float* sums;             // row r's result goes to sums + r * sums_stride
  int64_t sums_stride;
  bool first;              // overwrite `sums`, or combine with what earlier blocks of taps have left there
};

template <Accumulation kind, int rows, int vectors>
__attribute__((noinline)) void register_tile(const TileOperands& tile) {
  Simd::Float sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = Simd::zero();
  }
  const float* weights = tile.weights;
  const float* const strips = tile.strips;
  const int32_t* const end = tile.offsets + tile.taps;
  for (const int32_t* offset = tile.offsets; offset != end; ++offset, weights += kRows) {
    const float* from = strips + *offset;
    __builtin_prefetch(weights + kPrefetch);
    Simd::Float x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) x[v] = Simd::load(from + v * Simd::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Simd::Float w = Simd::set(weights[r]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = accumulate<kind, Simd>(sums[r][v], x[v], w);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* to = tile.sums + r * tile.sums_stride + v * Simd::kLanes;
      Simd::store(to, tile.first ? sums[r][v] : combine<kind, Simd>(Simd::load(to), sums[r][v]));
    }
  }
}

// Lanes are output channels: `positions` values of x are broadcast to all of them. Several taps are summed side by
// side, because one chain of additions would wait for itself.
template <Accumulation kind, int positions>
__attribute__((noinline)) void narrow_tile(const TileOperands& tile, int rows) {
  constexpr int kChains = positions == 1 ? 4 : 2;
  typename RowSimd::Float sums[kChains][positions];
  for (int c = 0; c < kChains; ++c) {
    for (int p = 0; p < positions; ++p) sums[c][p] = RowSimd::zero();
  }
  const float* weights = tile.weights;
  int64_t tap = 0;
  for (; tap + kChains <= tile.taps; tap += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c, weights += kRows) {
      const float* from = tile.strips + tile.offsets[tap + c];
      const typename RowSimd::Float w = RowSimd::load(weights);
#pragma GCC unroll 4
      for (int p = 0; p < positions; ++p) sums[c][p] = accumulate<kind, RowSimd>(sums[c][p], RowSimd::set(from[p]), w);
    }
  }
  for (; tap < tile.taps; ++tap, weights += kRows) {
    const float* from = tile.strips + tile.offsets[tap];
    for (int p = 0; p < positions; ++p) {
      sums[0][p] = accumulate<kind, RowSimd>(sums[0][p], RowSimd::set(from[p]), RowSimd::load(weights));
    }
  }
  for (int p = 0; p < positions; ++p) {
    typename RowSimd::Float sum = sums[0][p];
    for (int c = 1; c < kChains; ++c) sum = combine<kind, RowSimd>(sum, sums[c][p]);
    float values[kRows] = {};
    float* to = tile.sums + p;
    if (!tile.first) {
      for (int r = 0; r < rows; ++r) values[r] = to[r * tile.sums_stride];
      sum = combine<kind, RowSimd>(RowSimd::load(values), sum);
    }
    RowSimd::store(values, sum);
    for (int r = 0; r < rows; ++r) to[r * tile.sums_stride] = values[r];
  }
}

template <Accumulation kind, int rows>
inline void run_vectors(const TileOperands& tile, int vectors) {
  static_assert(kTileVectors <= 4, "one case a width");
  switch (vectors) {
    case 1: return register_tile<kind, rows, 1>(tile);
    case 2: return register_tile<kind, rows, kTileVectors < 2 ? 1 : 2>(tile);
    case 3: return register_tile<kind, rows, kTileVectors < 3 ? 1 : 3>(tile);
    default: return register_tile<kind, rows, kTileVectors < 4 ? 1 : 4>(tile);
  }
}

// The next number of rows that there is a tile for.
constexpr int tile_rows_for(int64_t rows) {
  return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : kRows;
}
static_assert(kRows >= 4, "tiles of 1, 2, 4 and kRows rows");

// `rows` output channels (at most kRows) at `count` positions (at most kTileVectors vectors of them). Writes whole
// vectors, and up to tile_rows_for(rows) rows.
template <Accumulation kind>
inline void run_tile(TileOperands tile, int64_t rows, int64_t count) {
  const int64_t rest = count % Simd::kLanes;
  const bool narrow = rest > 0 && rest <= kNarrow;
  const int vectors = static_cast<int>(narrow ? count / Simd::kLanes : (count + Simd::kLanes - 1) / Simd::kLanes);
  if (vectors > 0) {
    switch (tile_rows_for(rows)) {
      case 1: run_vectors<kind, 1>(tile, vectors); break;
      case 2: run_vectors<kind, 2>(tile, vectors); break;
      case 4: run_vectors<kind, 4>(tile, vectors); break;
      default: run_vectors<kind, kRows>(tile, vectors);
    }
  }
  if (narrow) {
    tile.strips += vectors * Simd::kLanes;
    tile.sums += vectors * Simd::kLanes;
    switch (rest) {
      case 1: return narrow_tile<kind, 1>(tile, static_cast<int>(rows));
      case 2: return narrow_tile<kind, 2>(tile, static_cast<int>(rows));
      case 3: return narrow_tile<kind, kNarrow < 3 ? 1 : 3>(tile, static_cast<int>(rows));
      default: return narrow_tile<kind, kNarrow < 4 ? 1 : 4>(tile, static_cast<int>(rows));
    }
  }
}

}  // namespace

#endif  // EDGECONV_COMMON_MICRO_KERNEL_H_
