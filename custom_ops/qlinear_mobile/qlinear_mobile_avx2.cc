// Convolutions and mobile blocks between 8-bit tensors for AVX2. Everything but the last object has
// internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_avx2.h"

namespace {

using Simd = Simd8;
using Dots = DotsAvx2;
using Bytes = SseBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_avx2 = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
