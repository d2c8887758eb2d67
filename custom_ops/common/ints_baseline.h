// Four 32-bit integers a vector, beside the floats of simd_baseline.h: what turns integer sums into quantised bytes.
//
// A file for an instruction set names one of these types Ints; it has as many lanes as Simd. Words is another one's
// name: lanes are bytes, whose differences are summed in 16 bits.
#ifndef EDGECONV_COMMON_INTS_BASELINE_H_
#define EDGECONV_COMMON_INTS_BASELINE_H_

#include "common/simd_baseline.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace {

struct Ints4 {
  typedef Simd4::Float Float;
  typedef int32_t Int __attribute__((vector_size(16)));
  typedef uint32_t Wrapping __attribute__((vector_size(16)));

  static inline Int set(int32_t value) { return Int{value, value, value, value}; }
  static inline Int load(const int32_t* from) {
    Int value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static inline void store(int32_t* to, Int value) { __builtin_memcpy(to, &value, sizeof(value)); }
  // Modulo 2^32.
  static inline Int add(Int a, Int b) {
    return reinterpret_cast<Int>(reinterpret_cast<Wrapping>(a) + reinterpret_cast<Wrapping>(b));
  }
  static inline Int sub(Int a, Int b) {
    return reinterpret_cast<Int>(reinterpret_cast<Wrapping>(a) - reinterpret_cast<Wrapping>(b));
  }
  // The nearest float, ties to even.
  static inline Float to_float(Int a) { return __builtin_convertvector(a, Float); }
  // `value` between `low` and `high`, which are less than 2^22, to the nearest integer, ties to even. NaN becomes
  // `low`.
  static inline Int round_between(Float value, Float low, Float high) {
    value = Simd4::select_less(low, value, value, low);
    value = Simd4::select_less(high, value, high, value);
    const Float magic = Simd4::set(0x1.8p23f);
    return __builtin_convertvector((value + magic) - magic, Int);
  }
  // The lowest byte of each.
  static inline void store_bytes(uint8_t* to, Int value) { store_first_bytes(to, value, 4); }
  static inline void store_first_bytes(uint8_t* to, Int value, int count) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(value[i]);
  }
};

struct Words8 {
  typedef uint16_t Sum __attribute__((vector_size(16)));
  typedef Sum Bytes;
  typedef uint8_t Eight __attribute__((vector_size(8)));
  static constexpr int kLanes = 8;

  static inline Sum zero() { return Sum{}; }
  static inline Bytes set(uint8_t value) { return Bytes{} + value; }
  static inline Bytes load(const uint8_t* from) {
    Eight bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return __builtin_convertvector(bytes, Bytes);
  }
  // sum + |x - w|
  static inline Sum add_difference(Sum sum, Bytes x, Bytes w) {
    const Sum larger = reinterpret_cast<Sum>(x > w);
    return sum + ((larger & (x - w)) | (~larger & (w - x)));
  }
  static inline void store(int32_t* to, Sum sum) {
    for (int i = 0; i < kLanes; ++i) to[i] = sum[i];
  }
};

#ifdef __SSE2__
struct Words16 {
  struct Sum {
    __m128i low, high;
  };
  typedef __m128i Bytes;
  static constexpr int kLanes = 16;

  static inline Sum zero() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }
  static inline Bytes set(uint8_t value) { return _mm_set1_epi8(static_cast<char>(value)); }
  static inline Bytes load(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static inline Sum add_difference(Sum sum, Bytes x, Bytes w) {
    const __m128i difference = _mm_or_si128(_mm_subs_epu8(x, w), _mm_subs_epu8(w, x)), zeros = _mm_setzero_si128();
    return {_mm_add_epi16(sum.low, _mm_unpacklo_epi8(difference, zeros)),
            _mm_add_epi16(sum.high, _mm_unpackhi_epi8(difference, zeros))};
  }
  static inline void store(int32_t* to, Sum sum) {
    const __m128i zeros = _mm_setzero_si128();
    __m128i* const four = reinterpret_cast<__m128i*>(to);
    _mm_storeu_si128(four, _mm_unpacklo_epi16(sum.low, zeros));
    _mm_storeu_si128(four + 1, _mm_unpackhi_epi16(sum.low, zeros));
    _mm_storeu_si128(four + 2, _mm_unpacklo_epi16(sum.high, zeros));
    _mm_storeu_si128(four + 3, _mm_unpackhi_epi16(sum.high, zeros));
  }
};
#endif

}  // namespace

#endif  // EDGECONV_COMMON_INTS_BASELINE_H_
