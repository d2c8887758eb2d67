// Whitening for what every CPU of the architecture has. Everything but the last object has internal linkage.
#include "common/simd_baseline.h"

namespace {

using Simd = Simd4;
using RowSimd = Simd4;
constexpr int kTileVectors = 2;  // 4 x 2 sums of the 16 registers of SSE2

}  // namespace

#include "deconv_whitening/deconv_whitening_kernel.h"

extern "C" const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_baseline = {Simd::kLanes, kRows, kColumns,
                                                                                  run_task};
