// Whitening for NEON. Everything but the last object has internal linkage.
#include "common/simd_neon.h"

namespace {

using Simd = Neon4;
using RowSimd = Neon8;
constexpr int kTileVectors = 2;  // 8 x 2 sums of 32 registers: squares of 8 x 8 lie in one tile

}  // namespace

#include "deconv_whitening/deconv_whitening_kernel.h"

extern "C" const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_neon = {Simd::kLanes, kRows, kColumns, run_task};
