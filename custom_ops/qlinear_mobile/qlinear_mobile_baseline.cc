// Convolutions and mobile blocks between 8-bit tensors for what every CPU of the architecture has. Everything but the
// last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_baseline.h"

namespace {

using Simd = Simd4;
using Dots = DotsBaseline;
using Bytes = PlainBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_baseline = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
