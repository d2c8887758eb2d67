// The register tile of the dense and pointwise stages: sums of a few positions and a block of channels, and what
// becomes of them. Positions are `position_stride` activations apart, taps in rows of `steps` x kDepth neighbouring
// activations. Where Dots has tile registers (common/dots_amx.h), they make the sums of all but small products.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_TILE_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_TILE_H_

#include "qlinear_mobile/qlinear_mobile.h"
#include "qlinear_mobile/qlinear_mobile_blocks.h"

namespace {

using Ints = Dots::Ints;
using Element = Dots::Element;
constexpr int kBlock = Dots::kLanes * Dots::kVectors;  // channels of a full block, and elements of a Vector

inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most_of(int64_t a, int64_t b) { return a > b ? a : b; }

// A block's packed part of a stage.
struct BlockWeights {
  const Dots::Weight* weights;
  const int32_t* bias;
  const float* multipliers;
  const float* offsets;       // of biased sums
  const Dots::Weight* ahead;  // behind the weights
};

// From a real result over its scale to an activation's unsigned byte.
struct Narrowing {
  Dots::Limits limits;
  bool far;     // the quotients may be beyond 32-bit integers
  bool biased;  // Dots::narrow_biased
};

// Within 32-bit integers, where it is above them.
inline Dots::Float at_most(Dots::Float value) {
  const Dots::Float most = Simd::set(1e9f);
  return Simd::select_less(value, most, value, most);
}

// From sums to quotients, in registers: a store of bytes would make the compiler load them anew.
template <int vectors, bool biased>
struct Factors {
  Dots::Float multipliers[vectors], offsets[biased ? vectors : 1];

  explicit Factors(const BlockWeights& block) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      multipliers[v] = Simd::load(block.multipliers + v * Dots::kLanes);
      if constexpr (biased) offsets[v] = Simd::load(block.offsets + v * Dots::kLanes);
    }
  }
};

template <int vectors, bool biased, int positions = 1, typename D = Dots>
__attribute__((always_inline)) inline Dots::Vector narrow(const Dots::Int* sums,
                                                          const Factors<vectors, biased>& factors,
                                                          const Narrowing& narrowing) {
  if constexpr (biased) return D::template narrow_biased<vectors>(sums, factors.multipliers, factors.offsets);
  Dots::Int steps[vectors * positions];
#pragma GCC unroll 4
  for (int v = 0; v < vectors * positions; ++v) {
    Dots::Float value = Simd::mul(Ints::to_float(sums[v]), factors.multipliers[v % vectors]);
    if (narrowing.far) value = at_most(value);
    steps[v] = Dots::round(value);
  }
  return Dots::narrow<vectors * positions>(steps, narrowing.limits);
}

// A store takes sums of positions one after the other, from the first on. Activations for the depthwise stage: position
// i goes to ring + places[i].
template <bool is_biased>
struct StoreActivations {
  static constexpr bool biased = is_biased;
  Element* ring;
  const int32_t* places;
  const Narrowing* narrowing;

  void advance(int64_t positions) { places += positions; }

  template <int vectors>
  static constexpr int together() {
    return 1;
  }
  template <int vectors, int positions>
  __attribute__((always_inline)) inline void finish(const Dots::Int* sums, const Factors<vectors, biased>& factors) {
    Dots::store(ring + *places++, narrow<vectors, biased>(sums, factors, *narrowing));
  }
};

// What makes the residual: X, in the place of the result, and its share in it.
struct Residual {
  Simd::Float x_zero_point;
  Simd::Float low, high;  // of the projection's steps, less its zero-point
  Simd::Float scale, x_scale;
};

// The call's result: position i goes to y + i * y_stride.
template <bool adds>
struct StoreResult {
  static constexpr bool biased = false;
  uint8_t* y;  // of the block's first channel
  int64_t y_stride;
  int64_t channels;  // of the block
  uint8_t flip;      // what makes bytes unsigned
  const Narrowing* narrowing;
  const Residual* residual;

  const uint8_t* x;  // of the residual
  int64_t x_stride;

  void advance(int64_t positions) {
    y += positions * y_stride;
    if constexpr (adds) x += positions * x_stride;
    __asm__("" : "+r"(y), "+r"(x));  // else each position's address takes a register
  }

  template <int vectors>
  static constexpr int together() {
    return Dots::kTogether[vectors];
  }
  template <int vectors, int positions>
  __attribute__((always_inline)) inline void finish(const Dots::Int* sums, const Factors<vectors, biased>& factors) {
    if constexpr (!adds) {
      const Dots::Vector bytes = narrow<vectors, false, positions>(sums, factors, *narrowing);
      Dots::store_positions<vectors, positions>(y, y_stride, bytes, channels, flip);
    } else {
      const Residual& given = *residual;
      Dots::Int steps[vectors * positions];
      Dots::Float reals[vectors * positions];
      Dots::load_reals<vectors, positions>(x, x_stride, channels, flip, given.x_zero_point, reals);
#pragma GCC unroll 4
      for (int v = 0; v < vectors * positions; ++v) {
        const Dots::Float value = Simd::mul(Ints::to_float(sums[v]), factors.multipliers[v % vectors]);
        const Dots::Float p = Dots::round_between(value, given.low, given.high);
        const Dots::Float sum = Simd::add(Simd::mul(p, given.scale), Simd::mul(reals[v], given.x_scale));
        steps[v] = Dots::round(narrowing->far ? at_most(sum) : sum);
      }
      const Dots::Vector bytes = Dots::narrow<vectors * positions>(steps, narrowing->limits);
      Dots::store_positions<vectors, positions>(y, y_stride, bytes, channels, flip);
    }
    advance(positions);
  }
};

// What a tile multiplies: `rows` x `columns` stretches of `steps` * kDepth activations a position.
struct DotInput {
  const Element* x;
  int64_t position_stride, row_stride, column_stride;
  int64_t rows, columns, steps;
};

// Gives a tile's sums to `store`, as many positions together as it takes.
template <int vectors, int positions, int first = 0, typename Store, typename Factors>
__attribute__((always_inline)) inline void finish_tile(const Dots::Int (&sums)[positions][vectors],
                                                       const Factors& factors, Store& store) {
  constexpr int kMost = Store::template together<vectors>(), kLeft = positions - first;
  constexpr int kCount = kLeft >= kMost ? kMost : 1;
  Dots::Int done[kCount * vectors];  // the address of `sums` would keep it in memory
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) done[i * vectors + v] = sums[first + i][v];
  }
  store.template finish<vectors, kCount>(done, factors);
  if constexpr (first + kCount < positions) {
    finish_tile<vectors, positions, first + kCount>(sums, factors, store);
  }
}

// Each step of a tile fetches a line of what follows the block's weights: the next block's.
constexpr int64_t kLine = 64;

// Tiles [first, first + tiles), each of `positions` positions, of which the first is `position`.
template <int vectors, int positions, typename Store>
__attribute__((noinline)) void run_dot_tiles(const DotInput& input, const BlockWeights& given_block, const Store& given,
                                             int64_t position, int64_t first, int64_t tiles) {
  constexpr int kWeights = vectors * Dots::kLanes * Dots::kDepth;
  // Copies: stores of bytes may change what is not in registers.
  Store store = given;
  store.advance(position);
  const BlockWeights block = given_block;
  const int64_t stride = input.position_stride, row_stride = input.row_stride, column_stride = input.column_stride;
  const int64_t rows = input.rows, columns = input.columns, steps = input.steps;
  const Element* start = input.x + position * stride;
  const char* ahead = reinterpret_cast<const char*>(block.ahead) + first * rows * columns * steps * kLine;
  for (int64_t tile = 0; tile < tiles; ++tile, start += positions * stride) {
    Dots::Int sums[positions][vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Dots::Int bias = Ints::load(block.bias + v * Dots::kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < positions; ++p) sums[p][v] = bias;
    }
    const Dots::Weight* weights = block.weights;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        const Element* x = start + row * row_stride + column * column_stride;
        for (int64_t step = 0; step < steps; ++step) {
          Dots::Vector w[vectors];
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) w[v] = Dots::load(weights + v * Dots::kLanes * Dots::kDepth);
#pragma GCC unroll 16
          for (int p = 0; p < positions; ++p) {
            const Dots::Vector broadcast = Dots::broadcast(x + p * stride);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) sums[p][v] = Dots::dot(sums[p][v], broadcast, w[v]);
          }
          __builtin_prefetch(ahead, 0, 2);
          ahead += kLine;
          x += Dots::kDepth;
          weights += kWeights;
        }
      }
    }
    const Factors<vectors, Store::biased> factors(block);
    finish_tile<vectors, positions>(sums, factors, store);
  }
}

template <int vectors, int positions, typename Store>
inline void run_dot_tiles_of(int64_t count, const DotInput& input, const BlockWeights& block, const Store& store,
                             int64_t position, int64_t first, int64_t tiles) {
  if constexpr (positions > 1) {
    if (count < positions) {
      return run_dot_tiles_of<vectors, positions - 1>(count, input, block, store, position, first, tiles);
    }
  }
  run_dot_tiles<vectors, positions>(input, block, store, position, first, tiles);
}

// All `count` positions, in tiles as even as can be.
template <int vectors, typename Store>
inline void run_dots_of(const DotInput& input, int64_t count, const BlockWeights& block, const Store& store) {
  if (count <= 0) return;
  const int64_t tiles = divide_up(count, Dots::kPositions[vectors]), each = count / tiles, more = count % tiles;
  constexpr int kMost = Dots::kPositions[vectors];
  if (more > 0) run_dot_tiles_of<vectors, kMost>(each + 1, input, block, store, 0, 0, more);
  run_dot_tiles_of<vectors, kMost>(each, input, block, store, more * (each + 1), more, tiles - more);
}

// Gives the sums of `count` positions, from memory, to `store`.
template <int vectors, typename Store>
inline void finish_positions(const int32_t* sums, int64_t count, const Factors<vectors, Store::biased>& factors,
                             Store& store) {
  constexpr int kMost = Store::template together<vectors>();
  Dots::Int done[kMost * vectors];
  const auto load = [&](int loads) __attribute__((always_inline)) {
    for (int v = 0; v < loads; ++v, sums += Dots::kLanes) done[v] = Ints::load(sums);
  };
  for (; count >= kMost; count -= kMost) {
    load(kMost * vectors);
    store.template finish<vectors, kMost>(done, factors);
  }
  for (; count > 0; --count) {
    load(vectors);
    store.template finish<vectors, 1>(done, factors);
  }
}

// All `count` positions on tile registers, in tiles as even as can be; the last one begins so early that it ends with
// the last position, and what it shares with the one before is computed twice. D is Dots.
template <typename D, int vectors, typename Store>
void run_tile_registers(typename D::Tiles& shape, const DotInput& input, int64_t count, const BlockWeights& block,
                        const Store& given) {
  constexpr int kMost = D::kMostTiles / vectors, kSide = D::kLanes;
  int64_t tiles = divide_up(count, kSide);
  const int64_t positions = divide_up(count, tiles);
  tiles = divide_up(count, positions);
  shape.shape(positions, input.steps);
  const Factors<vectors, Store::biased> factors(block);
  Store store = given;
  alignas(64) int32_t sums[kMost * kSide * vectors * kSide];
  for (int64_t done = 0; tiles > 0;) {
    const int64_t now = divide_up(tiles, divide_up(tiles, kMost));
    int64_t from[kMost];
    for (int64_t i = 0; i < now; ++i) from[i] = least_of(done + i * positions, count - positions);
    D::template multiply_tiles_of<vectors>(now, input, block.weights, block.bias, from, sums);
    for (int64_t i = 0; i < now; ++i) {
      const int64_t skip = done - from[i];
      finish_positions<vectors>(sums + (i * kSide + skip) * vectors * kSide, positions - skip, factors, store);
      done += positions - skip;
    }
    tiles -= now;
  }
}

// False where registers are as good.
template <typename D, typename Store>
bool run_where_tiles_pay(typename D::Tiles& shape, int64_t vectors, const DotInput& input, int64_t count,
                         const BlockWeights& block, const Store& store) {
  if (!D::tiles_pay(least_of(count, D::kLanes), input.rows * input.columns, input.steps)) return false;
  switch (vectors) {
    case 4: run_tile_registers<D, 4>(shape, input, count, block, store); break;
    case 3: run_tile_registers<D, 3>(shape, input, count, block, store); break;
    case 2: run_tile_registers<D, 2>(shape, input, count, block, store); break;
    default: run_tile_registers<D, 1>(shape, input, count, block, store);
  }
  return true;
}

template <typename Store, typename D = Dots>
void run_dots(typename D::Tiles& tiles, int64_t vectors, const DotInput& input, int64_t count,
              const BlockWeights& block, const Store& store) {
  if constexpr (D::kTiles) {
    if (run_where_tiles_pay<D>(tiles, vectors, input, count, block, store)) return;
  }
  if constexpr (Dots::kVectors == 4) {
    if (vectors == 4) return run_dots_of<4>(input, count, block, store);
    if (vectors == 3) return run_dots_of<3>(input, count, block, store);
  }
  if (vectors == 2) return run_dots_of<2>(input, count, block, store);
  run_dots_of<1>(input, count, block, store);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_TILE_H_
