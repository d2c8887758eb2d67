// Kervolution for AMX: the kernels of x.w in pairs of bfloat16 numbers. Everything else there is done by the kernels of
// AVX-512, whose register tile the work is planned with. Everything but the last object has internal linkage.
#include "common/simd_avx512.h"

namespace {

using Simd = Simd16;

}  // namespace

#include "kervolution/kervolution_bf16x3.h"

extern "C" const EdgeconvKervolutionIsa edgeconv_kervolution_amx = {{}, run_task};
