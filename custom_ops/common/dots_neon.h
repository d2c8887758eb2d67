// Products of signed 8-bit activations and weights, four to a lane: NEON, with the dot product of Armv8.2 or without.
// The operations are those of dots_baseline.h.
#ifndef EDGECONV_COMMON_DOTS_NEON_H_
#define EDGECONV_COMMON_DOTS_NEON_H_

#include <stddef.h>

#include "common/ints_neon.h"

namespace {

// Product brings dot(sum, x, w).
template <typename Product>
struct DotsNeon {
  typedef int8_t Element;
  typedef int8_t Weight;
  typedef int8x16_t Vector;
  typedef IntsNeon4 Ints;
  typedef int32x4_t Int;
  typedef float32x4_t Float;
  static constexpr int kLanes = 4, kDepth = 4, kVectors = 4;
  static constexpr int kOffset = 128;  // the weights are signed, so the activations must be
  static constexpr bool kBiased = false;
  static constexpr bool kTiles = false;
  struct Tiles {};
  static constexpr int kPositions[kVectors + 1] = {0, 8, 8, 6, 5};
  static constexpr int kTogether[kVectors + 1] = {0, 1, 1, 1, 1};

  struct Limits {
    int16x8_t zero_point;
    uint8x16_t low, high;
    Limits(int zero, int least, int most)
        : zero_point(vdupq_n_s16(static_cast<int16_t>(zero))),
          low(vdupq_n_u8(static_cast<uint8_t>(least))),
          high(vdupq_n_u8(static_cast<uint8_t>(most))) {}
  };

  static inline Vector load(const Element* from) { return vld1q_s8(from); }
  static inline void store(Element* to, Vector value) { vst1q_s8(to, value); }
  static inline Vector set(Element value) { return vdupq_n_s8(value); }
  static inline Vector broadcast(const Element* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static inline Int dot(Int sum, Vector x, Vector w) { return Product::dot(sum, x, w); }

  static inline void interleave(const Element* const* rows, int64_t at, Vector* to) {
    const int8x16_t a = load(rows[0] + at), b = load(rows[1] + at), c = load(rows[2] + at), d = load(rows[3] + at);
    const int16x8_t ab = vreinterpretq_s16_s8(vzip1q_s8(a, b)), cd = vreinterpretq_s16_s8(vzip1q_s8(c, d));
    const int16x8_t ef = vreinterpretq_s16_s8(vzip2q_s8(a, b)), gh = vreinterpretq_s16_s8(vzip2q_s8(c, d));
    to[0] = vreinterpretq_s8_s16(vzip1q_s16(ab, cd));
    to[1] = vreinterpretq_s8_s16(vzip2q_s16(ab, cd));
    to[2] = vreinterpretq_s8_s16(vzip1q_s16(ef, gh));
    to[3] = vreinterpretq_s8_s16(vzip2q_s16(ef, gh));
  }

  static inline Int round(Float value) { return vcvtnq_s32_f32(value); }
  template <int vectors>
  static inline Vector narrow(const Int* steps, const Limits& limits) {
    const int16x4_t none = vdup_n_s16(0);
    const int16x4_t b = vectors > 1 ? vqmovn_s32(steps[1 % vectors]) : none;
    const int16x4_t c = vectors > 2 ? vqmovn_s32(steps[2 % vectors]) : none;
    const int16x4_t d = vectors > 3 ? vqmovn_s32(steps[3 % vectors]) : none;
    const int16x8_t low = vqaddq_s16(vcombine_s16(vqmovn_s32(steps[0]), b), limits.zero_point);
    const int16x8_t high = vqaddq_s16(vcombine_s16(c, d), limits.zero_point);
    const uint8x16_t bytes = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    return vreinterpretq_s8_u8(veorq_u8(vminq_u8(vmaxq_u8(bytes, limits.low), limits.high), vdupq_n_u8(kOffset)));
  }
  template <int vectors>
  static inline void store_packed(Element* to, Vector value) {
    if (vectors == 4) return store(to, value);
    __builtin_memcpy(to, &value, 4 * vectors);
  }
  static inline Vector load_bytes(const uint8_t* from, int64_t count, uint8_t flip, int vectors) {
    uint8_t bytes[16] = {};
    if (count >= 4 * vectors) {
      __builtin_memcpy(bytes, from, static_cast<size_t>(4 * vectors));
    } else {
      for (int64_t i = 0; i < count; ++i) bytes[i] = from[i];
    }
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(bytes), vdupq_n_u8(flip ^ kOffset)));
  }

  template <int vectors>
  static inline void store_bytes(uint8_t* to, Vector value, int64_t count, uint8_t flip) {
    uint8_t bytes[16];
    vst1q_u8(bytes, veorq_u8(vreinterpretq_u8_s8(value), vdupq_n_u8(flip ^ kOffset)));
    if (count >= vectors * kLanes) {
      __builtin_memcpy(to, bytes, vectors * kLanes);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = bytes[i];
    }
  }
  template <int vectors>
  static inline void load_steps(const uint8_t* from, int64_t count, uint8_t flip, Int* to) {
    const uint8x16_t bytes = vreinterpretq_u8_s8(load_bytes(from, count, flip ^ kOffset, vectors));
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    const uint32x4_t steps[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)),
                                 vmovl_high_u16(high)};
    for (int j = 0; j < vectors; ++j) to[j] = vreinterpretq_s32_u32(steps[j]);
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

#endif  // EDGECONV_COMMON_DOTS_NEON_H_
