// Sixteen floats a vector: AVX-512 F, VL, DQ and BW. The operations are those of simd_baseline.h.
#ifndef EDGECONV_COMMON_SIMD_AVX512_H_
#define EDGECONV_COMMON_SIMD_AVX512_H_

#include <immintrin.h>

#include "common/float16.h"

namespace {

struct Simd16 {
  typedef __m512 Float;
  static constexpr int kLanes = 16;
  static constexpr bool kHasAbsoluteDifference = false;

  static inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static inline Float magnitude_mask() { return _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff)); }

  static inline Float zero() { return _mm512_setzero_ps(); }
  static inline Float set(float value) { return _mm512_set1_ps(value); }
  static inline Float load(const float* from) { return _mm512_loadu_ps(from); }
  static inline Float load_first(const float* from, int count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
  }
  static inline Float load(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static inline Float load_first(const uint16_t* from, int count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count), from));
  }
  static inline Float even_of(Float low, Float high) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(low, even, high);
  }
  static inline Float odd_of(Float low, Float high) {
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(low, odd, high);
  }
  static inline Float next_of(Float low, Float high) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), 1));
  }
  static inline __mmask16 lanes_between(int begin, int end) {
    return static_cast<__mmask16>((1u << end) - (1u << begin));
  }
  static inline Float load_between(const float* from, int begin, int end) {
    return _mm512_maskz_loadu_ps(lanes_between(begin, end), from);
  }
  static inline Float load_between(const uint16_t* from, int begin, int end) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_between(begin, end), from));
  }
  static inline Float load_even(const float* from) {
    return even_of(_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes));
  }
  static inline Float load_even_first(const float* from, int count) {
    const uint32_t lanes = 0x7fffffffu >> (32 - 2 * count);
    return even_of(_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from),
                   _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> kLanes), from + kLanes));
  }
  static inline void store(float* to, Float value) { _mm512_storeu_ps(to, value); }
  static inline void store_first(float* to, Float value, int count) {
    _mm512_mask_storeu_ps(to, first_lanes(count), value);
  }
  static inline __m256i to_half(Float value) { return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }
  static inline void store(uint16_t* to, Float value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_half(value));
  }
  static inline void store_first(uint16_t* to, Float value, int count) {
    _mm256_mask_storeu_epi16(to, first_lanes(count), to_half(value));
  }

  static inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static inline Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static inline Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static inline Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static inline Float abs(Float a) { return _mm512_and_ps(a, magnitude_mask()); }
  static inline Float copy_sign(Float a, Float sign) {
    return _mm512_or_ps(a, _mm512_andnot_ps(magnitude_mask(), sign));
  }
  static inline Float select_less(Float a, Float b, Float yes, Float no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static inline Float max_magnitude(Float largest, Float a) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(largest), _mm512_castps_si512(abs(a))));
  }
  static inline Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static inline Float add_times_one(Float sum, Float a, Float one) { return _mm512_fmadd_ps(a, one, sum); }
  // The difference as a multiply-add: vrangeps has the units of additions to itself.
  static inline Float max_difference(Float largest, Float x, Float w, Float one) {
    return _mm512_range_ps(largest, _mm512_fmsub_ps(x, one, w), 0x0b);
  }
  static inline Float opaque(float value) {
    Float vector = set(value);
    __asm__("" : "+v"(vector));
    return vector;
  }
  static inline void interleave(Float even, Float odd, Float* low, Float* high) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    *low = _mm512_permutex2var_ps(even, first, odd);
    *high = _mm512_permutex2var_ps(even, second, odd);
  }
  static inline Float times_power_of_two(Float a, Float n) { return _mm512_scalef_ps(a, n); }
};

}  // namespace

#endif  // EDGECONV_COMMON_SIMD_AVX512_H_
