// Kervolution between 8-bit tensors for AVX-512 with VNNI. Everything but the last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/ints_avx512.h"
#include "common/simd_avx2.h"

namespace {

using Simd = Simd16;
using RowSimd = Simd8;
using Ints = Ints16;
using Words = WordsAvx512;
using Bytes = SseBytes;
constexpr int kTileVectors = 3;  // 8 x 3 sums of 32 registers

// vpdpbusd adds the four bytes of each maximum, times one, to a sum.
template <typename V>
struct ByteDifferences;

template <>
struct ByteDifferences<Simd16> {
  typedef uint32_t Element;
  typedef int32_t Sum;
  typedef __m512i Vector;
  static constexpr bool kSumsOfMaxima = true;
  Vector ones = _mm512_set1_epi8(1);
  static inline Vector zero() { return _mm512_setzero_si512(); }
  static inline Vector set(Element value) { return _mm512_set1_epi32(static_cast<int>(value)); }
  static inline Vector load(const void* from) { return _mm512_loadu_si512(from); }
  static inline void store(Sum* to, Vector value) { _mm512_storeu_si512(to, value); }
  static inline Vector combine(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return _mm512_dpbusd_epi32(sum, _mm512_max_epu8(x, w), ones);
  }
};

template <>
struct ByteDifferences<Simd8> {
  typedef uint32_t Element;
  typedef int32_t Sum;
  typedef __m256i Vector;
  static constexpr bool kSumsOfMaxima = true;
  Vector ones = _mm256_set1_epi8(1);
  static inline Vector zero() { return _mm256_setzero_si256(); }
  static inline Vector set(Element value) { return _mm256_set1_epi32(static_cast<int>(value)); }
  static inline Vector load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static inline void store(Sum* to, Vector value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static inline Vector combine(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return _mm256_dpbusd_epi32(sum, _mm256_max_epu8(x, w), ones);
  }
};

}  // namespace

#include "qlinear_kervolution/qlinear_kervolution_kernel.h"

extern "C" const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx512_vnni = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes},
    sizeof(ByteDifferences<Simd>::Element),
    ByteDifferences<Simd>::kSumsOfMaxima,
    run_task};
