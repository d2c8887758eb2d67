// Sixteen 32-bit integers a vector: AVX-512. The operations are those of ints_baseline.h.
#ifndef EDGECONV_COMMON_INTS_AVX512_H_
#define EDGECONV_COMMON_INTS_AVX512_H_

#include "common/simd_avx512.h"

namespace {

struct Ints16 {
  typedef __m512 Float;
  typedef __m512i Int;

  static inline Int set(int32_t value) { return _mm512_set1_epi32(value); }
  static inline Int load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static inline void store(int32_t* to, Int value) { _mm512_storeu_si512(to, value); }
  static inline Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static inline Int sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static inline Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static inline Int round_between(Float value, Float low, Float high) {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, low), high));
  }
  static inline void store_bytes(uint8_t* to, Int value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(value));
  }
  static inline void store_first_bytes(uint8_t* to, Int value, int count) {
    _mm_mask_storeu_epi8(to, Simd16::first_lanes(count), _mm512_cvtepi32_epi8(value));
  }
};

struct WordsAvx512 {
  typedef __m512i Sum;
  typedef __m256i Bytes;
  static constexpr int kLanes = 32;

  static inline Sum zero() { return _mm512_setzero_si512(); }
  static inline Bytes set(uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static inline Bytes load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static inline Sum add_difference(Sum sum, Bytes x, Bytes w) {
    const __m256i difference = _mm256_or_si256(_mm256_subs_epu8(x, w), _mm256_subs_epu8(w, x));
    return _mm512_add_epi16(sum, _mm512_cvtepu8_epi16(difference));
  }
  static inline void store(int32_t* to, Sum sum) {
    Ints16::store(to, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sum)));
    Ints16::store(to + 16, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sum, 1)));
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_INTS_AVX512_H_
