// Eight 32-bit integers a vector: AVX2. The operations are those of ints_baseline.h.
#ifndef EDGECONV_COMMON_INTS_AVX2_H_
#define EDGECONV_COMMON_INTS_AVX2_H_

#include "common/simd_avx2.h"

namespace {

struct Ints8 {
  typedef __m256 Float;
  typedef __m256i Int;

  static inline Int set(int32_t value) { return _mm256_set1_epi32(value); }
  static inline Int load(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static inline void store(int32_t* to, Int value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static inline Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static inline Int sub(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static inline Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
  static inline Int round_between(Float value, Float low, Float high) {
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, low), high));
  }
  // The low bytes of the halves, in the lowest four bytes of each.
  static inline __m256i low_bytes(Int value) {
    const __m256i pick = _mm256_set1_epi32(0x0c080400);
    return _mm256_shuffle_epi8(value, pick);
  }
  static inline void store_bytes(uint8_t* to, Int value) {
    const __m256i bytes = low_bytes(value);
    const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
  }
  static inline void store_first_bytes(uint8_t* to, Int value, int count) {
    uint8_t bytes[8];
    store_bytes(bytes, value);
    for (int i = 0; i < count; ++i) to[i] = bytes[i];
  }
};

struct WordsAvx2 {
  typedef __m256i Sum;
  typedef __m128i Bytes;
  static constexpr int kLanes = 16;

  static inline Sum zero() { return _mm256_setzero_si256(); }
  static inline Bytes set(uint8_t value) { return _mm_set1_epi8(static_cast<char>(value)); }
  static inline Bytes load(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static inline Sum add_difference(Sum sum, Bytes x, Bytes w) {
    const __m128i difference = _mm_or_si128(_mm_subs_epu8(x, w), _mm_subs_epu8(w, x));
    return _mm256_add_epi16(sum, _mm256_cvtepu8_epi16(difference));
  }
  static inline void store(int32_t* to, Sum sum) {
    Ints8::store(to, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sum)));
    Ints8::store(to + 8, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sum, 1)));
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_INTS_AVX2_H_
