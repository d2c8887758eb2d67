// Products of activations and weights in 16 bits, two to a lane: AVX2, whose 8-bit products would saturate. The
// operations are those of dots_baseline.h.
#ifndef EDGECONV_COMMON_DOTS_AVX2_H_
#define EDGECONV_COMMON_DOTS_AVX2_H_

#include "common/ints_avx2.h"

namespace {

struct DotsAvx2 {
  typedef int16_t Element;
  typedef int16_t Weight;
  typedef __m256i Vector;
  typedef Ints8 Ints;
  typedef __m256i Int;
  typedef __m256 Float;
  static constexpr int kLanes = 8, kDepth = 2, kVectors = 2;
  static constexpr int kOffset = 0;
  static constexpr bool kBiased = false;
  static constexpr bool kTiles = false;
  struct Tiles {};
  static constexpr int kPositions[kVectors + 1] = {0, 8, 6};
  static constexpr int kTogether[kVectors + 1] = {0, 1, 1};

  struct Limits {
    __m256i zero_point, low, high;
    Limits(int zero, int least, int most)
        : zero_point(_mm256_set1_epi16(static_cast<int16_t>(zero))),
          low(_mm256_set1_epi16(static_cast<int16_t>(least))),
          high(_mm256_set1_epi16(static_cast<int16_t>(most))) {}
  };

  static inline Vector load(const Element* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static inline void store(Element* to, Vector value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static inline Vector set(Element value) { return _mm256_set1_epi16(value); }
  static inline Vector broadcast(const Element* from) {
    int32_t two;
    __builtin_memcpy(&two, from, sizeof(two));
    return _mm256_set1_epi32(two);
  }
  static inline Int dot(Int sum, Vector x, Vector w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }

  static inline void interleave(const Element* const* rows, int64_t at, Vector* to) {
    const __m256i a = load(rows[0] + at), b = load(rows[1] + at);
    to[0] = _mm256_unpacklo_epi16(a, b);
    to[1] = _mm256_unpackhi_epi16(a, b);
  }

  static inline Int round(Float value) { return _mm256_cvtps_epi32(value); }
  template <int vectors>
  static inline Vector narrow(const Int* steps, const Limits& limits) {
    const __m256i words = _mm256_packs_epi32(steps[0], vectors > 1 ? steps[1 % vectors] : _mm256_setzero_si256());
    return _mm256_min_epi16(_mm256_max_epi16(_mm256_adds_epi16(words, limits.zero_point), limits.low), limits.high);
  }
  template <int vectors>
  static inline void store_packed(Element* to, Vector value) {
    if (vectors == 2) return store(to, value);
    const __m256i both = _mm256_permute4x64_epi64(value, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(both));
  }
  static inline Vector load_bytes(const uint8_t* from, int64_t count, uint8_t flip, int vectors) {
    uint8_t bytes[16] = {};
    if (count >= 8 * vectors) {
      __builtin_memcpy(bytes, from, static_cast<size_t>(8 * vectors));
    } else {
      for (int64_t i = 0; i < count; ++i) bytes[i] = from[i];
    }
    const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
    const __m256i words =
        _mm256_cvtepu8_epi16(_mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)), flips));
    return vectors == 2 ? words : _mm256_permute4x64_epi64(words, 0x50);
  }

  template <int vectors>
  static inline void store_bytes(uint8_t* to, Vector value, int64_t count, uint8_t flip) {
    int16_t words[16];
    store_packed<vectors>(words, value);
    const __m128i* const halves = reinterpret_cast<const __m128i*>(words);
    const __m128i both = _mm_packus_epi16(_mm_loadu_si128(halves), _mm_loadu_si128(halves + (vectors > 1 ? 1 : 0)));
    uint8_t bytes[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_xor_si128(both, _mm_set1_epi8(static_cast<char>(flip))));
    if (count >= vectors * kLanes) {
      __builtin_memcpy(to, bytes, vectors * kLanes);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = bytes[i];
    }
  }
  template <int vectors>
  static inline void load_steps(const uint8_t* from, int64_t count, uint8_t flip, Int* to) {
    const __m256i words = load_bytes(from, count, flip, vectors), zeros = _mm256_setzero_si256();
    to[0] = _mm256_unpacklo_epi16(words, zeros);
    if (vectors > 1) to[1 % vectors] = _mm256_unpackhi_epi16(words, zeros);
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

#endif  // EDGECONV_COMMON_DOTS_AVX2_H_
