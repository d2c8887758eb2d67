// Whitening for AVX2 with FMA and F16C. Everything but the last object has internal linkage.
#include "common/simd_avx2.h"
#include "common/simd_baseline.h"

namespace {

using Simd = Simd8;
using RowSimd = Simd4;
constexpr int kTileVectors = 2;  // 4 x 2 sums of 16 registers

}  // namespace

#include "deconv_whitening/deconv_whitening_kernel.h"

extern "C" const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_avx2 = {Simd::kLanes, kRows, kColumns, run_task};
