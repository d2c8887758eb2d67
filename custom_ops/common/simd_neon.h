// Four floats a vector, and eight as a pair of them: NEON of aarch64. The operations are those of simd_baseline.h.
#ifndef EDGECONV_COMMON_SIMD_NEON_H_
#define EDGECONV_COMMON_SIMD_NEON_H_

#include <arm_neon.h>
#include <stdint.h>

#include "common/float16.h"

namespace {

struct Neon4 {
  typedef float32x4_t Float;
  static constexpr int kLanes = 4;
  static constexpr bool kHasAbsoluteDifference = true;

  static inline Float from_halves(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }
  static inline uint16x4_t to_halves(Float value) { return vreinterpret_u16_f16(vcvt_f16_f32(value)); }

  static inline Float zero() { return vdupq_n_f32(0.0f); }
  static inline Float set(float value) { return vdupq_n_f32(value); }
  static inline Float load(const float* from) { return vld1q_f32(from); }
  static inline Float load_first(const float* from, int count) {
    float buffer[kLanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  static inline Float load(const uint16_t* from) { return from_halves(vld1_u16(from)); }
  static inline Float load_first(const uint16_t* from, int count) {
    uint16_t buffer[kLanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  template <typename Element>
  static inline Float load_between(const Element* from, int begin, int end) {
    if (end - begin == kLanes) return load(from);
    Element buffer[kLanes] = {};
    for (int i = begin; i < end; ++i) buffer[i] = from[i];
    return load(buffer);
  }
  static inline Float load_even(const float* from) { return vld2q_f32(from).val[0]; }
  static inline Float load_even_first(const float* from, int count) {
    float buffer[kLanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = from[2 * i];
    return vld1q_f32(buffer);
  }
  static inline void store(float* to, Float value) { vst1q_f32(to, value); }
  static inline void store_first(float* to, Float value, int count) {
    float buffer[kLanes];
    store(buffer, value);
    for (int i = 0; i < count; ++i) to[i] = buffer[i];
  }
  static inline void store(uint16_t* to, Float value) { vst1_u16(to, to_halves(value)); }
  static inline void store_first(uint16_t* to, Float value, int count) {
    uint16_t buffer[kLanes];
    store(buffer, value);
    for (int i = 0; i < count; ++i) to[i] = buffer[i];
  }

  static inline Float add(Float a, Float b) { return vaddq_f32(a, b); }
  static inline Float sub(Float a, Float b) { return vsubq_f32(a, b); }
  static inline Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static inline Float div(Float a, Float b) { return vdivq_f32(a, b); }
  static inline Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static inline Float abs(Float a) { return vabsq_f32(a); }
  static inline Float copy_sign(Float a, Float sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a); }
  static inline Float select_less(Float a, Float b, Float yes, Float no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
  // As integers, which are done in fewer cycles than floats.
  static inline Float max_magnitude(Float largest, Float a) {
    return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(largest), vreinterpretq_s32_f32(abs(a))));
  }
  static inline Float max(Float a, Float b) { return vmaxq_f32(a, b); }
  static inline Float add_times_one(Float sum, Float a, Float) { return add(sum, a); }
  static inline Float max_difference(Float largest, Float x, Float w, Float) {
    return max_magnitude(largest, sub(x, w));
  }
  static inline Float opaque(float value) { return set(value); }
  static inline Float even_of(Float low, Float high) { return vuzp1q_f32(low, high); }
  static inline Float odd_of(Float low, Float high) { return vuzp2q_f32(low, high); }
  static inline Float next_of(Float low, Float high) { return vextq_f32(low, high, 1); }
  static inline void interleave(Float even, Float odd, Float* low, Float* high) {
    *low = vzip1q_f32(even, odd);
    *high = vzip2q_f32(even, odd);
  }
  static inline Float power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }
  static inline Float times_power_of_two(Float a, Float n) {
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return mul(mul(a, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
  }
};

// For rows of register tiles: what micro_kernel.h needs of RowSimd.
struct Neon8 {
  struct Float {
    float32x4_t low, high;
  };
  static constexpr int kLanes = 8;

  static inline Float zero() { return {Neon4::zero(), Neon4::zero()}; }
  static inline Float set(float value) { return {Neon4::set(value), Neon4::set(value)}; }
  static inline Float load(const float* from) { return {Neon4::load(from), Neon4::load(from + 4)}; }
  static inline void store(float* to, Float value) {
    Neon4::store(to, value.low);
    Neon4::store(to + 4, value.high);
  }
  static inline Float add(Float a, Float b) { return {Neon4::add(a.low, b.low), Neon4::add(a.high, b.high)}; }
  static inline Float sub(Float a, Float b) { return {Neon4::sub(a.low, b.low), Neon4::sub(a.high, b.high)}; }
  static inline Float fma(Float a, Float b, Float c) {
    return {Neon4::fma(a.low, b.low, c.low), Neon4::fma(a.high, b.high, c.high)};
  }
  static inline Float abs(Float a) { return {Neon4::abs(a.low), Neon4::abs(a.high)}; }
  static inline Float max_magnitude(Float largest, Float a) {
    return {Neon4::max_magnitude(largest.low, a.low), Neon4::max_magnitude(largest.high, a.high)};
  }
  static inline Float max(Float a, Float b) { return {Neon4::max(a.low, b.low), Neon4::max(a.high, b.high)}; }
  static inline Float add_times_one(Float sum, Float a, Float) { return add(sum, a); }
  static inline Float max_difference(Float largest, Float x, Float w, Float) {
    return max_magnitude(largest, sub(x, w));
  }
  static inline Float opaque(float value) { return set(value); }
};

}  // namespace

#endif  // EDGECONV_COMMON_SIMD_NEON_H_
