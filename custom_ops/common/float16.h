// IEEE 754 binary16 in software, for the baseline and for single values.
//
// Everything here has internal linkage: files compiled for an instruction set include it too, and must not hand their
// copy to the rest of the library.
#ifndef EDGECONV_COMMON_FLOAT16_H_
#define EDGECONV_COMMON_FLOAT16_H_

#include <stdint.h>

namespace {

inline float float_from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return float_from_bits(sign | 0x70000000u | magnitude);  // infinity, NaN
  // Scaling by 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
  return float_from_bits(sign | bits_from_float(float_from_bits(magnitude) * 0x1p112f));
}

// Rounds to nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or above
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the value in the last bits, in units of 2^-24, rounded by the addition itself.
    return static_cast<uint16_t>(sign | (bits_from_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0x0fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float element_to_float(float value) { return value; }
inline float element_to_float(uint16_t value) { return half_to_float(value); }

}  // namespace

#endif  // EDGECONV_COMMON_FLOAT16_H_
