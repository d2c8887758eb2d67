// Kervolution between 8-bit tensors for AVX-512 F, VL, DQ and BW. Everything but the last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/ints_avx512.h"
#include "common/simd_avx2.h"

namespace {

using Simd = Simd16;
using RowSimd = Simd8;
using Ints = Ints16;
using Words = WordsAvx512;
using Bytes = SseBytes;
constexpr int kTileVectors = 1;  // 8 x 1 sums of two registers each

// vpsadbw sums |x - w| over eight bytes, into 64 bits of which the lower half is enough.
template <typename V>
struct ByteDifferences;

template <>
struct ByteDifferences<Simd8> {
  typedef uint64_t Element;
  typedef int32_t Sum;
  typedef __m512i Vector;
  static constexpr bool kSumsOfMaxima = false;
  static inline Vector zero() { return _mm512_setzero_si512(); }
  static inline Vector set(Element value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
  static inline Vector load(const Element* from) { return _mm512_loadu_si512(from); }
  static inline Vector load(const Sum* from) {
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static inline void store(Sum* to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi64_epi32(0xff, value));
  }
  static inline Vector combine(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  inline Vector accumulate(Vector sum, Vector x, Vector w) const {
    return _mm512_add_epi32(sum, _mm512_sad_epu8(x, w));
  }
};

}  // namespace

#include "common/vector_pair.h"

namespace {

template <>
struct ByteDifferences<Simd16> : VectorPair<ByteDifferences<Simd8>, Simd8::kLanes> {};

}  // namespace

#include "qlinear_kervolution/qlinear_kervolution_kernel.h"

extern "C" const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx512 = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes},
    sizeof(ByteDifferences<Simd>::Element),
    ByteDifferences<Simd>::kSumsOfMaxima,
    run_task};
