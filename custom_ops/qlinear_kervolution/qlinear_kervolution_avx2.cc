// Kervolution between 8-bit tensors for AVX2 with FMA. Everything but the last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/ints_avx2.h"
#include "common/simd_baseline.h"
#include "common/vector_pair.h"

namespace {

using Simd = Simd8;
using RowSimd = Simd4;
using Ints = Ints8;
using Words = WordsAvx2;
using Bytes = SseBytes;
constexpr int kTileVectors = 1;  // 4 x 1 sums of two registers each

// vpsadbw sums |x - w| over eight bytes, into 64 bits of which the lower half is enough.
template <typename V>
struct ByteDifferences;

template <>
struct ByteDifferences<Simd4> {
  typedef uint64_t Element;
  typedef int32_t Sum;
  typedef __m256i Vector;
  static constexpr bool kSumsOfMaxima = false;
  static inline Vector zero() { return _mm256_setzero_si256(); }
  static inline Vector set(Element value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }
  static inline Vector load(const Element* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static inline Vector load(const Sum* from) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static inline void store(Sum* to, Vector value) {
    const __m128i low = _mm256_castsi256_si128(value), high = _mm256_extracti128_si256(value, 1);
    const __m128 even = _mm_shuffle_ps(_mm_castsi128_ps(low), _mm_castsi128_ps(high), 0x88);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_castps_si128(even));
  }
  static inline Vector combine(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return _mm256_add_epi32(sum, _mm256_sad_epu8(x, w));
  }
};

template <>
struct ByteDifferences<Simd8> : VectorPair<ByteDifferences<Simd4>, Simd4::kLanes> {};

}  // namespace

#include "qlinear_kervolution/qlinear_kervolution_kernel.h"

extern "C" const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx2 = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes},
    sizeof(ByteDifferences<Simd>::Element),
    ByteDifferences<Simd>::kSumsOfMaxima,
    run_task};
