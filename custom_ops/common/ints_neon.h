// Four 32-bit integers a vector: NEON of aarch64. The operations are those of ints_baseline.h.
#ifndef EDGECONV_COMMON_INTS_NEON_H_
#define EDGECONV_COMMON_INTS_NEON_H_

#include "common/simd_neon.h"

namespace {

struct IntsNeon4 {
  typedef float32x4_t Float;
  typedef int32x4_t Int;

  static inline Int set(int32_t value) { return vdupq_n_s32(value); }
  static inline Int load(const int32_t* from) { return vld1q_s32(from); }
  static inline void store(int32_t* to, Int value) { vst1q_s32(to, value); }
  static inline Int add(Int a, Int b) { return vaddq_s32(a, b); }
  static inline Int sub(Int a, Int b) { return vsubq_s32(a, b); }
  static inline Float to_float(Int a) { return vcvtq_f32_s32(a); }
  static inline Int round_between(Float value, Float low, Float high) {
    return vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(value, low), high));
  }
  static inline void store_bytes(uint8_t* to, Int value) {
    const uint8x16_t bytes = vreinterpretq_u8_s32(value);
    const uint8x16_t low = vuzp1q_u8(vuzp1q_u8(bytes, bytes), bytes);
    vst1q_lane_u32(reinterpret_cast<uint32_t*>(to), vreinterpretq_u32_u8(low), 0);
  }
  static inline void store_first_bytes(uint8_t* to, Int value, int count) {
    int32_t lanes[4];
    vst1q_s32(lanes, value);
    for (int i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(lanes[i]);
  }
};

struct WordsNeon {
  struct Sum {
    uint16x8_t low, high;
  };
  typedef uint8x16_t Bytes;
  static constexpr int kLanes = 16;

  static inline Sum zero() { return {vdupq_n_u16(0), vdupq_n_u16(0)}; }
  static inline Bytes set(uint8_t value) { return vdupq_n_u8(value); }
  static inline Bytes load(const uint8_t* from) { return vld1q_u8(from); }
  static inline Sum add_difference(Sum sum, Bytes x, Bytes w) {
    return {vabal_u8(sum.low, vget_low_u8(x), vget_low_u8(w)), vabal_high_u8(sum.high, x, w)};
  }
  static inline void store_eight(int32_t* to, uint16x8_t sum) {
    vst1q_s32(to, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(sum))));
    vst1q_s32(to + 4, vreinterpretq_s32_u32(vmovl_high_u16(sum)));
  }
  static inline void store(int32_t* to, Sum sum) {
    store_eight(to, sum.low);
    store_eight(to + 8, sum.high);
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_INTS_NEON_H_
