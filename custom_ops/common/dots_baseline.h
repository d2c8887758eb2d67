// Products of activations and weights in 16 bits, two to a lane: SSE2, or the compiler's own vectors.
//
// A file for an instruction set names one of these types Dots. Lanes are output channels; a lane takes the products of
// kDepth activations and weights at a time. A block of channels has up to kVectors vectors of sums (with kDepth times
// as many lanes as one of them), whose results one Vector of activations holds: lane l of sum j is element
// l/4 * 4 * kVectors + 4 * j + l % 4 of it. So packing and interleaving, which x86 does within 128 bits, need no
// permutation.
//
//   Element, Weight   what activations and weights are in memory; an activation is kOffset less than its unsigned byte
//   kPositions        positions a register tile, by its number of vectors
//   kTiles            whether products are also computed in tile registers (dots_amx.h)
//   Tiles             what a task keeps of them: something only where kTiles
//   kTogether         positions whose results one Vector holds: their sums side by side are as those of a wider block
//   Limits            a zero-point, and the least and the largest step, as unsigned bytes
//   broadcast()       kDepth activations in every lane
//   dot()             sum + the products of a lane's activations and weights
//   interleave()      of kDepth rows of activations, a Vector each: sum j's lanes in to[j]
//   round()           to the nearest integer, ties to even
//   narrow()          steps + zero-point within the limits, as a Vector of activations
//   narrow_biased()   the same from sums * multipliers where the zero-point is 0 and saturation is the only limit; the
//   sums
//                     are the bits of floats 1.5 * 2^23 above them, the offsets take that back. Only where kBiased
//   store_packed()    without the places of vectors that the block lacks: kLanes * vectors elements
//   load_bytes()      the inverse: a Vector from `count` bytes, of which the bits in `flip` are flipped
//   store_bytes()     the first `count` channels' bytes of a Vector, flipped likewise
//   store_positions() store_bytes() of `positions` positions, `stride` apart
//   load_reals()      `count` bytes of each of `positions` positions, flipped likewise, less a zero-point, as floats in
//                     the order of sums
//   round_between()   to the nearest integer within two of them, as a float
#ifndef EDGECONV_COMMON_DOTS_BASELINE_H_
#define EDGECONV_COMMON_DOTS_BASELINE_H_

#include "common/ints_baseline.h"

namespace {

struct DotsBaseline {
  typedef int16_t Element;
  typedef int16_t Weight;
  typedef Ints4 Ints;
  typedef Ints4::Int Int;
  typedef Ints4::Float Float;
#ifdef __SSE2__
  typedef __m128i Vector;
#else
  typedef int16_t Vector __attribute__((vector_size(16)));
#endif
  static constexpr int kLanes = 4, kDepth = 2, kVectors = 2;
  static constexpr int kOffset = 0;
  static constexpr bool kBiased = false;
  static constexpr bool kTiles = false;
  struct Tiles {};
  static constexpr int kPositions[kVectors + 1] = {0, 6, 4};
  static constexpr int kTogether[kVectors + 1] = {0, 1, 1};

  struct Limits {
    int zero_point, low, high;
    Limits(int zero, int least, int most) : zero_point(zero), low(least), high(most) {}
  };

  static inline Vector load(const Element* from) {
    Vector value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static inline void store(Element* to, Vector value) { __builtin_memcpy(to, &value, sizeof(value)); }

#ifdef __SSE2__
  static inline Vector set(Element value) { return _mm_set1_epi16(value); }
  static inline Vector broadcast(const Element* from) {
    int32_t two;
    __builtin_memcpy(&two, from, sizeof(two));
    return _mm_set1_epi32(two);
  }
  static inline Int dot(Int sum, Vector x, Vector w) {
    return Ints::add(sum, reinterpret_cast<Int>(_mm_madd_epi16(x, w)));
  }
  static inline void interleave(const Element* const* rows, int64_t at, Vector* to) {
    const __m128i a = load(rows[0] + at), b = load(rows[1] + at);
    to[0] = _mm_unpacklo_epi16(a, b);
    to[1] = _mm_unpackhi_epi16(a, b);
  }
  static inline Int round(Float value) { return reinterpret_cast<Int>(_mm_cvtps_epi32(value)); }
  template <int vectors>
  static inline Vector narrow(const Int* steps, const Limits& limits) {
    const __m128i a = reinterpret_cast<__m128i>(steps[0]), b = reinterpret_cast<__m128i>(steps[vectors - 1]);
    const __m128i words = _mm_adds_epi16(_mm_packs_epi32(a, b), set(static_cast<Element>(limits.zero_point)));
    return _mm_min_epi16(_mm_max_epi16(words, set(static_cast<Element>(limits.low))),
                         set(static_cast<Element>(limits.high)));
  }
#else
  typedef uint32_t Wrapping __attribute__((vector_size(16)));
  static inline Vector set(Element value) { return Vector{} + value; }
  static inline Vector broadcast(const Element* from) {
    const Element a = from[0], b = from[1];
    return Vector{a, b, a, b, a, b, a, b};
  }
  static inline Int even(Vector value) { return reinterpret_cast<Int>(reinterpret_cast<Wrapping>(value) << 16) >> 16; }
  static inline Int odd(Vector value) { return reinterpret_cast<Int>(value) >> 16; }
  static inline Int dot(Int sum, Vector x, Vector w) {
    return Ints::add(sum, Ints::add(even(x) * even(w), odd(x) * odd(w)));
  }
  static inline void interleave(const Element* const* rows, int64_t at, Vector* to) {
    const Vector a = load(rows[0] + at), b = load(rows[1] + at);
    to[0] = Vector{a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]};
    to[1] = Vector{a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]};
  }
  // Steps beyond the range of 16 bits need not keep their value, only their side.
  static inline Int round(Float value) {
    return Ints::round_between(value, Simd4::set(-30000.0f), Simd4::set(30000.0f));
  }
  template <int vectors>
  static inline Vector narrow(const Int* steps, const Limits& limits) {
    Vector words = {};
    for (int j = 0; j < vectors; ++j) {
      for (int i = 0; i < 4; ++i) {
        int step = steps[j][i] + limits.zero_point;
        step = step < limits.low ? limits.low : step;
        words[4 * j + i] = static_cast<Element>(step > limits.high ? limits.high : step);
      }
    }
    return words;
  }
#endif

  template <int vectors>
  static inline void store_packed(Element* to, Vector value) {
    __builtin_memcpy(to, &value, vectors * 4 * sizeof(Element));
  }
  static inline Vector load_bytes(const uint8_t* from, int64_t count, uint8_t flip, int vectors) {
    Element elements[8] = {};
    for (int64_t i = 0; i < 4 * vectors && i < count; ++i) elements[i] = static_cast<uint8_t>(from[i] ^ flip);
    return load(elements);
  }
  template <int vectors>
  static inline void store_bytes(uint8_t* to, Vector value, int64_t count, uint8_t flip) {
    Element elements[8];
    store(elements, value);
    for (int64_t i = 0; i < vectors * kLanes && i < count; ++i) to[i] = static_cast<uint8_t>(elements[i] ^ flip);
  }
  template <int vectors>
  static inline void load_steps(const uint8_t* from, int64_t count, uint8_t flip, Int* to) {
    for (int j = 0; j < vectors; ++j) {
      Int steps = {};
      for (int i = 0; i < 4 && 4 * j + i < count; ++i) steps[i] = static_cast<uint8_t>(from[4 * j + i] ^ flip);
      to[j] = steps;
    }
  }
  template <int vectors, int positions>
  static inline void store_positions(uint8_t* to, int64_t, Vector value, int64_t count, uint8_t flip) {
    store_bytes<vectors>(to, value, count, flip);
  }
  template <int vectors, int positions>
  static inline void load_reals(const uint8_t* from, int64_t, int64_t count, uint8_t flip, Float zero_point,
                                Float* to) {
    Int steps[vectors];
    load_steps<vectors>(from, count, flip, steps);
    for (int j = 0; j < vectors; ++j) to[j] = Ints::to_float(steps[j]) - zero_point;
  }
  static inline Float round_between(Float value, Float low, Float high) {
    return Ints::to_float(Ints::round_between(value, low, high));
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_DOTS_BASELINE_H_
