// Eight floats a vector: AVX2 with FMA and F16C. The operations are those of simd_baseline.h.
#ifndef EDGECONV_COMMON_SIMD_AVX2_H_
#define EDGECONV_COMMON_SIMD_AVX2_H_

#include <immintrin.h>

#include "common/float16.h"

namespace {

struct Simd8 {
  typedef __m256 Float;
  static constexpr int kLanes = 8;
  static constexpr bool kHasAbsoluteDifference = false;

  static inline __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  // Pairs of lanes 0, 2, 1, 3.
  static inline Float in_order(Float mixed) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
  }
  static inline Float magnitude_mask() { return _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)); }

  static inline Float zero() { return _mm256_setzero_ps(); }
  static inline Float set(float value) { return _mm256_set1_ps(value); }
  static inline Float load(const float* from) { return _mm256_loadu_ps(from); }
  static inline Float load_first(const float* from, int count) { return _mm256_maskload_ps(from, first_lanes(count)); }
  static inline Float load(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static inline Float load_first(const uint16_t* from, int count) {
    uint16_t buffer[kLanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  static inline Float load_between(const float* from, int begin, int end) {
    return _mm256_maskload_ps(from, _mm256_andnot_si256(first_lanes(begin), first_lanes(end)));
  }
  static inline Float load_between(const uint16_t* from, int begin, int end) {
    if (end - begin == kLanes) return load(from);
    uint16_t buffer[kLanes] = {};
    for (int i = begin; i < end; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  static inline Float even_of(Float low, Float high) { return in_order(_mm256_shuffle_ps(low, high, 0x88)); }
  static inline Float odd_of(Float low, Float high) { return in_order(_mm256_shuffle_ps(low, high, 0xdd)); }
  static inline Float next_of(Float low, Float high) {
    const __m256i a = _mm256_castps_si256(low), b = _mm256_castps_si256(high);
    return _mm256_castsi256_ps(_mm256_alignr_epi8(_mm256_permute2x128_si256(a, b, 0x21), a, 4));
  }
  static inline Float load_even(const float* from) {
    return even_of(_mm256_loadu_ps(from), _mm256_loadu_ps(from + kLanes));
  }
  static inline Float load_even_first(const float* from, int count) {
    const int reach = 2 * count - 1;
    return even_of(_mm256_maskload_ps(from, first_lanes(reach)),
                   _mm256_maskload_ps(from + kLanes, first_lanes(reach - kLanes)));
  }
  static inline void store(float* to, Float value) { _mm256_storeu_ps(to, value); }
  static inline void store_first(float* to, Float value, int count) {
    _mm256_maskstore_ps(to, first_lanes(count), value);
  }
  static inline void store(uint16_t* to, Float value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static inline void store_first(uint16_t* to, Float value, int count) {
    uint16_t buffer[kLanes];
    store(buffer, value);
    for (int i = 0; i < count; ++i) to[i] = buffer[i];
  }

  static inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static inline Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static inline Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  static inline Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static inline Float abs(Float a) { return _mm256_and_ps(a, magnitude_mask()); }
  static inline Float copy_sign(Float a, Float sign) {
    return _mm256_or_ps(a, _mm256_andnot_ps(magnitude_mask(), sign));
  }
  static inline Float select_less(Float a, Float b, Float yes, Float no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static inline Float max_magnitude(Float largest, Float a) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(largest), _mm256_castps_si256(abs(a))));
  }
  static inline Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static inline Float add_times_one(Float sum, Float a, Float one) { return _mm256_fmadd_ps(a, one, sum); }
  static inline Float max_difference(Float largest, Float x, Float w, Float) {
    return _mm256_max_ps(largest, abs(_mm256_sub_ps(x, w)));
  }
  static inline Float opaque(float value) {
    Float vector = set(value);
    __asm__("" : "+x"(vector));
    return vector;
  }
  static inline void interleave(Float even, Float odd, Float* low, Float* high) {
    const Float a = _mm256_unpacklo_ps(even, odd), b = _mm256_unpackhi_ps(even, odd);
    *low = _mm256_permute2f128_ps(a, b, 0x20);
    *high = _mm256_permute2f128_ps(a, b, 0x31);
  }
  static inline Float power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  static inline Float times_power_of_two(Float a, Float n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_SIMD_AVX2_H_
