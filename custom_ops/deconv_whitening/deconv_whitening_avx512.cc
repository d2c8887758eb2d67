// Whitening for AVX-512 F, VL, DQ and BW. Everything but the last object has internal linkage.
#include "common/simd_avx2.h"
#include "common/simd_avx512.h"

namespace {

using Simd = Simd16;
using RowSimd = Simd8;
constexpr int kTileVectors = 3;  // 8 x 3 sums of 32 registers

}  // namespace

#include "deconv_whitening/deconv_whitening_kernel.h"

extern "C" const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_avx512 = {Simd::kLanes, kRows, kColumns,
                                                                                run_task};
