// Sums of |x - w| over the bytes of elements, for NEON: four lanes of four bytes, and eight of them for rows of
// register tiles. How four bytes are added to a sum is the parameter.
#ifndef EDGECONV_COMMON_BYTE_DIFFERENCES_NEON_H_
#define EDGECONV_COMMON_BYTE_DIFFERENCES_NEON_H_

#include <arm_neon.h>

namespace {

template <typename AddBytes>
struct NeonByteDifferences {
  typedef uint32_t Element;
  typedef int32_t Sum;
  typedef uint32x4_t Vector;
  static constexpr bool kSumsOfMaxima = false;
  static inline Vector zero() { return vdupq_n_u32(0); }
  static inline Vector set(Element value) { return vdupq_n_u32(value); }
  static inline Vector load(const Element* from) { return vld1q_u32(from); }
  static inline Vector load(const Sum* from) { return vreinterpretq_u32_s32(vld1q_s32(from)); }
  static inline void store(Sum* to, Vector value) { vst1q_s32(to, vreinterpretq_s32_u32(value)); }
  static inline Vector combine(Vector a, Vector b) { return vaddq_u32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return AddBytes::add(sum, vabdq_u8(vreinterpretq_u8_u32(x), vreinterpretq_u8_u32(w)));
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_BYTE_DIFFERENCES_NEON_H_
