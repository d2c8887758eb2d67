// Arithmetic functions of device code that neither C++ nor cuda_fp16.h has on the host: each in plain C++, as the CUDA
// Math API and the PTX ISA define it. The approximate ones (__expf, rsqrtf, ...) are exact here.
#ifndef EDGECONV_COMMON_SIMT_INTRINSICS_H_
#define EDGECONV_COMMON_SIMT_INTRINSICS_H_

#include <cuda_fp16.h>
#include <math.h>  // with isnan and its like outside std, as device code calls them

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace simt {

template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Byte `index` of a word.
template <typename Byte>
int byte_of(uint32_t word, int index) {
  return static_cast<Byte>(word >> (8 * index));
}

template <typename A, typename B>
uint32_t dot4(uint32_t a, uint32_t b, uint32_t sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(byte_of<A>(a, i) * byte_of<B>(b, i));
  return sum;
}

template <typename Byte>
uint32_t sad4(uint32_t a, uint32_t b, uint32_t sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(std::abs(byte_of<Byte>(a, i) - byte_of<Byte>(b, i)));
  return sum;
}

// Applies a function to each pair of bytes.
template <typename Byte, typename Function>
uint32_t map_bytes(uint32_t a, uint32_t b, const Function& function) {
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(function(byte_of<Byte>(a, i), byte_of<Byte>(b, i)) & 0xff) << (8 * i);
  }
  return result;
}

}  // namespace simt

#define EDGECONV_SIMT_MIN_MAX(Type)                         \
  inline Type min(Type a, Type b) { return b < a ? b : a; } \
  inline Type max(Type a, Type b) { return a < b ? b : a; }
EDGECONV_SIMT_MIN_MAX(int)
EDGECONV_SIMT_MIN_MAX(unsigned)
EDGECONV_SIMT_MIN_MAX(long)
EDGECONV_SIMT_MIN_MAX(unsigned long)
EDGECONV_SIMT_MIN_MAX(long long)
EDGECONV_SIMT_MIN_MAX(unsigned long long)
#undef EDGECONV_SIMT_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

inline int __float_as_int(float value) { return simt::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return simt::bit_cast<unsigned>(value); }
inline float __int_as_float(int value) { return simt::bit_cast<float>(value); }
inline float __uint_as_float(unsigned value) { return simt::bit_cast<float>(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t(a) * b >> 32); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (shift & 31));
}
// Each nibble of the selector picks a byte of b:a; its highest bit asks for that byte's sign instead.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float value) { return value > 0.0f ? std::fmin(value, 1.0f) : 0.0f; }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
// Out of range the result is the nearest integer, and 0 for NaN.
inline int __float2int_rn(float value) {
  if (!(value >= -0x1p31f)) return value < 0 ? INT32_MIN : 0;
  return value >= 0x1p31f ? INT32_MAX : static_cast<int>(std::nearbyint(value));
}
inline int __float2int_rz(float value) { return __float2int_rn(std::trunc(value)); }
inline int __float2int_rd(float value) { return __float2int_rn(std::floor(value)); }
inline int __float2int_ru(float value) { return __float2int_rn(std::ceil(value)); }

inline int __dp4a(int a, int b, int sum) {
  return static_cast<int>(
      simt::dot4<int8_t, int8_t>(static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(sum)));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) { return simt::dot4<uint8_t, uint8_t>(a, b, sum); }

inline unsigned __vsadu4(unsigned a, unsigned b) { return simt::sad4<uint8_t>(a, b, 0); }
inline unsigned __vsads4(unsigned a, unsigned b) { return simt::sad4<int8_t>(a, b, 0); }
inline unsigned __vabsdiffu4(unsigned a, unsigned b) {
  return simt::map_bytes<uint8_t>(a, b, [](int x, int y) { return std::abs(x - y); });
}
inline unsigned __vabsdiffs4(unsigned a, unsigned b) {
  return simt::map_bytes<int8_t>(a, b, [](int x, int y) { return std::abs(x - y); });
}
inline unsigned __vmaxu4(unsigned a, unsigned b) {
  return simt::map_bytes<uint8_t>(a, b, [](int x, int y) { return x > y ? x : y; });
}
inline unsigned __vmaxs4(unsigned a, unsigned b) {
  return simt::map_bytes<int8_t>(a, b, [](int x, int y) { return x > y ? x : y; });
}
inline unsigned __vminu4(unsigned a, unsigned b) {
  return simt::map_bytes<uint8_t>(a, b, [](int x, int y) { return x < y ? x : y; });
}
inline unsigned __vmins4(unsigned a, unsigned b) {
  return simt::map_bytes<int8_t>(a, b, [](int x, int y) { return x < y ? x : y; });
}
inline unsigned __vadd4(unsigned a, unsigned b) {
  return simt::map_bytes<uint8_t>(a, b, [](int x, int y) { return x + y; });
}
inline unsigned __vsub4(unsigned a, unsigned b) {
  return simt::map_bytes<uint8_t>(a, b, [](int x, int y) { return x - y; });
}

// A product of two halves is exact in double, and so is the sum unless its terms are 2^29 apart; then one rounding.
inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(static_cast<double>(__half2float(a)) * __half2float(b) + __half2float(c));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}
inline __half hexp(__half value) { return __float2half(std::exp(__half2float(value))); }

template <typename Value>
Value __ldg(const Value* from) {
  return *from;
}
template <typename Value>
Value __ldcs(const Value* from) {
  return *from;
}
template <typename Value>
void __stcs(Value* to, Value value) {
  *to = value;
}

#endif  // EDGECONV_COMMON_SIMT_INTRINSICS_H_
