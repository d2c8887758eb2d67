// Register tiles over one block of filter taps: kRows output channels by a few vectors of output positions, and for the
// last few positions a narrow tile, whose lanes are the channels.
//
// Shared by every operator that combines each tap of a patch x with each tap of a filter w; how it combines them is a
// compile-time parameter, the arithmetic. Simd, RowSimd and kTileVectors are named before this file is included
// (simd_baseline.h).
//
// Operands: packed weights w[tap][kRows], and strips (patch_strips.h), in which the values that one tap sees at
// consecutive positions are consecutive, beginning at offsets[tap].
#ifndef EDGECONV_COMMON_MICRO_KERNEL_H_
#define EDGECONV_COMMON_MICRO_KERNEL_H_

namespace {

constexpr int kRows = RowSimd::kLanes;
// Up to so many positions, broadcasting each costs less than one vector of them. A whole vector is never narrow.
constexpr int kNarrow = kRows / 2 < Simd::kLanes ? kRows / 2 : Simd::kLanes - 1;

// Positions of one call of run_tile: a rest that the narrow tile takes joins the tile before it, which has the weights
// in the cache.
constexpr int kMostPositions = (kTileVectors + 1) * Simd::kLanes;

inline int64_t tile_count(int64_t positions) {
  constexpr int64_t kWhole = kTileVectors * Simd::kLanes;
  return positions <= kWhole + kNarrow ? positions : kWhole;
}

// Floats ahead in the weights. They are read once from start to end, and the hardware stops at the end of each page.
constexpr int kPrefetch = 1024;

// An arithmetic says how a tile combines the value x of a tap with its weight w, on vectors of type V.
template <typename V>
struct FloatArithmetic {
  typedef float Element;  // of strips and weights
  typedef float Sum;
  typedef typename V::Float Vector;
  static inline Vector zero() { return V::zero(); }
  static inline Vector set(float value) { return V::set(value); }
  static inline Vector load(const float* from) { return V::load(from); }
  static inline void store(float* to, Vector value) { V::store(to, value); }
  // Two sums of different taps become one.
  static inline Vector combine(Vector a, Vector b) { return V::add(a, b); }
  // Taps that are added up one after the other; more are sums of such sums.
  static constexpr int64_t kMostTaps = 1 << 30;
};

// sum of x * w
template <typename V>
struct DotProduct : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  inline Vector accumulate(Vector sum, Vector x, Vector w) const { return V::fma(x, w, sum); }
};

// sum of |x - w|
template <typename V>
struct AbsoluteDifference : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  inline Vector accumulate(Vector sum, Vector x, Vector w) const { return V::add(sum, V::abs(V::sub(x, w))); }
};

// sum of (x - w)^2
template <typename V>
struct SquaredDifference : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    const Vector difference = V::sub(x, w);
    return V::fma(difference, difference, sum);
  }
};

// sum of max(x, w), of which |x - w| = 2 max(x, w) - x - w is made at the end: two instructions in place of three. The
// addition is a multiply-add by one, because processors with units of their own for those (Zen) have them idle here.
//
// Where w is mostly the larger one, positions add up nearly the same numbers, and round nearly alike: what should cancel
// out in the next layer's sums does not. Sums of short sums round far less.
template <typename V>
struct SumOfMaxima : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  static constexpr int64_t kMostTaps = 64;
  Vector one = V::opaque(1.0f);
  inline Vector accumulate(Vector sum, Vector x, Vector w) const { return V::add_times_one(sum, V::max(x, w), one); }
};

// maximum of |x - w|; NaN stays
template <typename V>
struct MaximumDifference : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  inline Vector accumulate(Vector largest, Vector x, Vector w) const { return V::max_magnitude(largest, V::sub(x, w)); }
  static inline Vector combine(Vector a, Vector b) { return V::max_magnitude(a, b); }
};

// The same where there is no NaN, which some instruction sets compute with less.
template <typename V>
struct OrderedMaximumDifference : FloatArithmetic<V> {
  typedef typename V::Float Vector;
  Vector one = V::opaque(1.0f);
  inline Vector accumulate(Vector largest, Vector x, Vector w) const { return V::max_difference(largest, x, w, one); }
  static inline Vector combine(Vector a, Vector b) { return V::max_magnitude(a, b); }
};

template <typename Element, typename Sum>
struct TileOperands {
  const Element* strips;   // at the tile's first position
  const int32_t* offsets;  // one a tap
  const Element* weights;  // [taps][kRows]
  int64_t taps;
  Sum* sums;  // row r's result goes to sums + r * sums_stride
  int64_t sums_stride;
  bool first;  // overwrite `sums`, or combine with what earlier blocks of taps have left there
};

template <template <typename> class Arithmetic>
using OperandsOf = TileOperands<typename Arithmetic<Simd>::Element, typename Arithmetic<Simd>::Sum>;

template <template <typename> class Arithmetic, int rows, int vectors>
__attribute__((noinline)) void register_tile(const OperandsOf<Arithmetic>& tile) {
  typedef Arithmetic<Simd> A;
  typedef typename A::Vector Vector;
  const A arithmetic;
  Vector sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = A::zero();
  }
  const typename A::Element* weights = tile.weights;
  const typename A::Element* const strips = tile.strips;
  const int32_t* const end = tile.offsets + tile.taps;
  for (const int32_t* offset = tile.offsets; offset != end; ++offset, weights += kRows) {
    const typename A::Element* from = strips + *offset;
    __builtin_prefetch(weights + kPrefetch);
    Vector x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) x[v] = A::load(from + v * Simd::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vector w = A::set(weights[r]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = arithmetic.accumulate(sums[r][v], x[v], w);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      typename A::Sum* to = tile.sums + r * tile.sums_stride + v * Simd::kLanes;
      A::store(to, tile.first ? sums[r][v] : A::combine(A::load(to), sums[r][v]));
    }
  }
}

// Lanes are output channels: `positions` values of x are broadcast to all of them. Several taps are summed side by
// side, because one chain of additions would wait for itself.
template <template <typename> class Arithmetic, int positions>
__attribute__((noinline)) void narrow_tile(const OperandsOf<Arithmetic>& tile, int rows) {
  typedef Arithmetic<RowSimd> A;
  typedef typename A::Vector Vector;
  constexpr int kChains = positions == 1 ? 4 : 2;
  const A arithmetic;
  Vector sums[kChains][positions];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 4
    for (int p = 0; p < positions; ++p) sums[c][p] = A::zero();
  }
  const typename A::Element* weights = tile.weights;
  int64_t tap = 0;
  for (; tap + kChains <= tile.taps; tap += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c, weights += kRows) {
      const typename A::Element* from = tile.strips + tile.offsets[tap + c];
      const Vector w = A::load(weights);
#pragma GCC unroll 4
      for (int p = 0; p < positions; ++p) sums[c][p] = arithmetic.accumulate(sums[c][p], A::set(from[p]), w);
    }
  }
  for (; tap < tile.taps; ++tap, weights += kRows) {
    const typename A::Element* from = tile.strips + tile.offsets[tap];
#pragma GCC unroll 4
    for (int p = 0; p < positions; ++p) {
      sums[0][p] = arithmetic.accumulate(sums[0][p], A::set(from[p]), A::load(weights));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < positions; ++p) {
    Vector sum = sums[0][p];
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) sum = A::combine(sum, sums[c][p]);
    typename A::Sum values[kRows] = {};
    typename A::Sum* to = tile.sums + p;
    if (!tile.first) {
      for (int r = 0; r < rows; ++r) values[r] = to[r * tile.sums_stride];
      sum = A::combine(A::load(values), sum);
    }
    A::store(values, sum);
    for (int r = 0; r < rows; ++r) to[r * tile.sums_stride] = values[r];
  }
}

template <template <typename> class Arithmetic, int rows>
inline void run_vectors(const OperandsOf<Arithmetic>& tile, int vectors) {
  static_assert(kTileVectors <= 4, "one case a width");
  switch (vectors) {
    case 1: return register_tile<Arithmetic, rows, 1>(tile);
    case 2: return register_tile<Arithmetic, rows, (kTileVectors < 2 ? 1 : 2)>(tile);
    case 3: return register_tile<Arithmetic, rows, (kTileVectors < 3 ? 1 : 3)>(tile);
    default: return register_tile<Arithmetic, rows, (kTileVectors < 4 ? 1 : 4)>(tile);
  }
}

// The next number of rows that there is a tile for.
constexpr int tile_rows_for(int64_t rows) { return rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : kRows; }
static_assert(kRows >= 4, "tiles of 1, 2, 4 and kRows rows");

// `rows` output channels (at most kRows) at `count` positions (from tile_count()). Writes whole
// vectors, and up to tile_rows_for(rows) rows.
template <template <typename> class Arithmetic>
inline void run_tile(OperandsOf<Arithmetic> tile, int64_t rows, int64_t count) {
  const int64_t rest = count % Simd::kLanes;
  const bool narrow = rest > 0 && rest <= kNarrow;
  const int vectors = static_cast<int>(narrow ? count / Simd::kLanes : (count + Simd::kLanes - 1) / Simd::kLanes);
  if (vectors > 0) {
    switch (tile_rows_for(rows)) {
      case 1: run_vectors<Arithmetic, 1>(tile, vectors); break;
      case 2: run_vectors<Arithmetic, 2>(tile, vectors); break;
      case 4: run_vectors<Arithmetic, 4>(tile, vectors); break;
      default: run_vectors<Arithmetic, kRows>(tile, vectors);
    }
  }
  if (narrow) {
    tile.strips += vectors * Simd::kLanes;
    tile.sums += vectors * Simd::kLanes;
    switch (rest) {
      case 1: return narrow_tile<Arithmetic, 1>(tile, static_cast<int>(rows));
      case 2: return narrow_tile<Arithmetic, 2>(tile, static_cast<int>(rows));
      case 3: return narrow_tile<Arithmetic, (kNarrow < 3 ? 1 : 3)>(tile, static_cast<int>(rows));
      default: return narrow_tile<Arithmetic, (kNarrow < 4 ? 1 : 4)>(tile, static_cast<int>(rows));
    }
  }
}

}  // namespace

#endif  // EDGECONV_COMMON_MICRO_KERNEL_H_
