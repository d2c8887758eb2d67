// Convolutions and mobile blocks between 8-bit tensors for AVX-512 with VNNI. Everything but the last object has
// internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_avx512_vnni.h"

namespace {

using Simd = Simd16;
using Dots = DotsVnni;
using Bytes = SseBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_avx512_vnni = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
