// Four floats a vector in the compiler's own vector type: SSE2 on x86-64, NEON on aarch64.
//
// A SIMD header gives one type, with the operations below; all of it has internal linkage. A file for an instruction
// set includes those it needs and names them before it includes the kernels:
//
//   Simd          lanes are output positions
//   RowSimd       lanes are output channels, of which a register tile has RowSimd::kLanes
//   kTileVectors  vectors of output positions a register tile
#ifndef EDGECONV_COMMON_SIMD_BASELINE_H_
#define EDGECONV_COMMON_SIMD_BASELINE_H_

#include "common/float16.h"

namespace {

struct Simd4 {
  typedef float Float __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr bool kHasAbsoluteDifference = false;  // as one instruction

  static inline Float zero() { return Float{}; }
  static inline Float set(float value) { return Float{value, value, value, value}; }
  static inline Float load(const float* from) {
    Float value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  // The first `count` elements (less than kLanes), and zeros.
  static inline Float load_first(const float* from, int count) {
    Float value{};
    for (int i = 0; i < count; ++i) value[i] = from[i];
    return value;
  }
  // Elements [begin, end) of kLanes, and zeros; reads nothing else.
  template <typename Element>
  static inline Float load_between(const Element* from, int begin, int end) {
    if (end - begin == kLanes) return load(from);
    Element buffer[kLanes] = {};
    for (int i = begin; i < end; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  static inline Float load(const uint16_t* from) {
    return Float{half_to_float(from[0]), half_to_float(from[1]), half_to_float(from[2]), half_to_float(from[3])};
  }
  static inline Float load_first(const uint16_t* from, int count) {
    Float value{};
    for (int i = 0; i < count; ++i) value[i] = half_to_float(from[i]);
    return value;
  }
  // Elements 0, 2, 4, …; reads one element past the last of them.
  static inline Float load_even(const float* from) { return Float{from[0], from[2], from[4], from[6]}; }
  // The first `count` (1 to kLanes) of them; reads nothing past the last.
  static inline Float load_even_first(const float* from, int count) {
    Float value{};
    for (int i = 0; i < count; ++i) value[i] = from[2 * i];
    return value;
  }
  static inline void store(float* to, Float value) { __builtin_memcpy(to, &value, sizeof(value)); }
  static inline void store_first(float* to, Float value, int count) {
    for (int i = 0; i < count; ++i) to[i] = value[i];
  }
  static inline void store(uint16_t* to, Float value) { store_first(to, value, kLanes); }
  static inline void store_first(uint16_t* to, Float value, int count) {
    for (int i = 0; i < count; ++i) to[i] = float_to_half(value[i]);
  }

  static inline Float add(Float a, Float b) { return a + b; }
  static inline Float sub(Float a, Float b) { return a - b; }
  static inline Float mul(Float a, Float b) { return a * b; }
  static inline Float div(Float a, Float b) { return a / b; }
  static inline Float fma(Float a, Float b, Float c) { return a * b + c; }  // a * b + c
  static inline Float abs(Float a) { return reinterpret_cast<Float>(reinterpret_cast<Int>(a) & 0x7fffffff); }
  // The sign of `sign` and the magnitude of `a`, which is not negative.
  static inline Float copy_sign(Float a, Float sign) {
    return reinterpret_cast<Float>(reinterpret_cast<Int>(a) | (reinterpret_cast<Int>(sign) & (-0x7fffffff - 1)));
  }
  // a < b ? yes : no; false where either is NaN.
  static inline Float select_less(Float a, Float b, Float yes, Float no) {
    const Int mask = a < b;
    return reinterpret_cast<Float>((mask & reinterpret_cast<Int>(yes)) | (~mask & reinterpret_cast<Int>(no)));
  }
  // max(largest, |a|) for a `largest` that has no sign. Compared as integers, magnitudes keep their order and NaN
  // comes above infinity, so that a NaN stays.
  static inline Float max_magnitude(Float largest, Float a) {
    const Int x = reinterpret_cast<Int>(largest);
    const Int y = reinterpret_cast<Int>(a) & 0x7fffffff;
    const Int mask = y > x;
    return reinterpret_cast<Float>((mask & y) | (~mask & x));
  }
  // Where neither is NaN.
  static inline Float max(Float a, Float b) {
#ifdef __SSE2__
    return __builtin_ia32_maxps(a, b);
#else
    return select_less(a, b, b, a);
#endif
  }
  // `one` is 1 in every lane, of which the compiler must not know: opaque(1.0f).
  static inline Float add_times_one(Float sum, Float a, Float) { return sum + a; }
  // max(largest, |x - w|) where none is NaN.
  static inline Float max_difference(Float largest, Float x, Float w, Float) { return max_magnitude(largest, x - w); }
  static inline Float opaque(float value) { return set(value); }
  // Lanes 0, 2, 4, … of `low` and then of `high`; lanes 1, 3, 5, …
  static inline Float even_of(Float low, Float high) { return Float{low[0], low[2], high[0], high[2]}; }
  static inline Float odd_of(Float low, Float high) { return Float{low[1], low[3], high[1], high[3]}; }
  // All lanes of `low` but the first, and the first of `high`.
  static inline Float next_of(Float low, Float high) { return Float{low[1], low[2], low[3], high[0]}; }
  // even[0], odd[0], even[1], …: the first half and the second.
  static inline void interleave(Float even, Float odd, Float* low, Float* high) {
    *low = Float{even[0], odd[0], even[1], odd[1]};
    *high = Float{even[2], odd[2], even[3], odd[3]};
  }
  // a * 2^n for an integer n from -252 to 254; in two steps, as 2^n itself may be out of range where the product is
  // not.
  static inline Float times_power_of_two(Float a, Float n) {
    const Int whole = __builtin_convertvector(n, Int), half = whole >> 1;
    return a * reinterpret_cast<Float>((half + 127) << 23) * reinterpret_cast<Float>((whole - half + 127) << 23);
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_SIMD_BASELINE_H_
