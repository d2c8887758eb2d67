// Kervolution between 8-bit tensors for what every CPU of the architecture has. Everything but the last object has
// internal linkage.
#include "common/byte_vectors.h"
#include "common/ints_baseline.h"
#include "common/vector_pair.h"

namespace {

using Simd = Simd4;
using RowSimd = Simd4;
using Ints = Ints4;

template <typename V>
struct ByteDifferences;

#ifdef __SSE2__

using Bytes = SseBytes;
using Words = Words16;
constexpr int kTileVectors = 1;  // 4 x 1 sums of two registers each

// psadbw sums |x - w| over eight bytes, into 64 bits of which the lower half is enough.
struct TwoByteDifferences {
  typedef uint64_t Element;
  typedef int32_t Sum;
  typedef __m128i Vector;
  static constexpr bool kSumsOfMaxima = false;
  static inline Vector zero() { return _mm_setzero_si128(); }
  static inline Vector set(Element value) { return _mm_set1_epi64x(static_cast<long long>(value)); }
  static inline Vector load(const Element* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static inline Vector load(const Sum* from) {
    return _mm_unpacklo_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), _mm_setzero_si128());
  }
  static inline void store(Sum* to, Vector value) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi32(value, 0x88));
  }
  static inline Vector combine(Vector a, Vector b) { return _mm_add_epi32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const { return _mm_add_epi32(sum, _mm_sad_epu8(x, w)); }
};

template <>
struct ByteDifferences<Simd4> : VectorPair<TwoByteDifferences, 2> {};

#else

using Bytes = PlainBytes;
using Words = Words8;
constexpr int kTileVectors = 2;

template <>
struct ByteDifferences<Simd4> {
  typedef uint32_t Element;
  typedef int32_t Sum;
  typedef uint32_t Vector __attribute__((vector_size(16)));
  typedef uint8_t ByteVector __attribute__((vector_size(16)));
  static constexpr bool kSumsOfMaxima = false;
  static inline Vector zero() { return Vector{}; }
  static inline Vector set(Element value) { return Vector{value, value, value, value}; }
  static inline Vector load(const void* from) {
    Vector value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static inline void store(Sum* to, Vector value) { __builtin_memcpy(to, &value, sizeof(value)); }
  static inline Vector combine(Vector a, Vector b) { return a + b; }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    const ByteVector a = reinterpret_cast<ByteVector>(x), b = reinterpret_cast<ByteVector>(w);
    const ByteVector larger = reinterpret_cast<ByteVector>(a > b);
    const Vector difference = reinterpret_cast<Vector>((larger & (a - b)) | (~larger & (b - a)));
    const Vector pairs = (difference & 0x00ff00ffu) + ((difference >> 8) & 0x00ff00ffu);
    return sum + (pairs & 0xffffu) + (pairs >> 16);
  }
};

#endif

}  // namespace

#include "qlinear_kervolution/qlinear_kervolution_kernel.h"

extern "C" const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_baseline = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes},
    sizeof(ByteDifferences<Simd>::Element),
    ByteDifferences<Simd>::kSumsOfMaxima,
    run_task};
