// Kervolution between 8-bit tensors for NEON with the dot product of Armv8.2. Everything but the last object has
// internal linkage.
#include "common/byte_differences_neon.h"
#include "common/byte_vectors.h"
#include "common/ints_neon.h"
#include "common/vector_pair.h"

namespace {

using Simd = Neon4;
using RowSimd = Neon8;
using Ints = IntsNeon4;
using Words = WordsNeon;
using Bytes = NeonBytes;
constexpr int kTileVectors = 3;  // 8 x 3 sums of 32 registers

struct DotProductWithOnes {
  static inline uint32x4_t add(uint32x4_t sum, uint8x16_t bytes) { return vdotq_u32(sum, bytes, vdupq_n_u8(1)); }
};

template <typename V>
struct ByteDifferences;

template <>
struct ByteDifferences<Neon4> : NeonByteDifferences<DotProductWithOnes> {};

template <>
struct ByteDifferences<Neon8> : VectorPair<ByteDifferences<Neon4>, Neon4::kLanes> {};

}  // namespace

#include "qlinear_kervolution/qlinear_kervolution_kernel.h"

extern "C" const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_neon_dotprod = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes},
    sizeof(ByteDifferences<Simd>::Element),
    ByteDifferences<Simd>::kSumsOfMaxima,
    run_task};
