// Kervolution for NEON. Everything but the last object has internal linkage.
#include "common/simd_neon.h"

namespace {

using Simd = Neon4;
using RowSimd = Neon8;
constexpr int kTileVectors = 3;  // 8 x 3 sums of 32 registers

}  // namespace

#include "kervolution/kervolution_kernel.h"

extern "C" const EdgeconvKervolutionIsa edgeconv_kervolution_neon = {
    {Simd::kLanes, kRows, kTileVectors * Simd::kLanes}, run_task};
