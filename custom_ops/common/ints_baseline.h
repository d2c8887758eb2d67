// Four 32-bit integers a vector, beside the floats of simd_baseline.h: what turns integer sums into quantised bytes.
//
// A file for an instruction set names one of these types Ints; it has as many lanes as Simd.
#ifndef EDGECONV_COMMON_INTS_BASELINE_H_
#define EDGECONV_COMMON_INTS_BASELINE_H_

#include "common/simd_baseline.h"

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

}  // namespace

#endif  // EDGECONV_COMMON_INTS_BASELINE_H_
