// Convolutions and mobile blocks between 8-bit tensors for AMX: products on tiles where they pay, everything else as
// with AVX-512 and VNNI, with the same packed weights. Everything but the last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_amx.h"

namespace {

using Simd = Simd16;
using Dots = DotsAmx;
using Bytes = SseBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_amx = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
