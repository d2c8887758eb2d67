// Convolutions and mobile blocks between 8-bit tensors for NEON with the dot product of Armv8.2. Everything but the
// last object has internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_neon.h"

namespace {

struct Sdot {
  static inline int32x4_t dot(int32x4_t sum, int8x16_t x, int8x16_t w) { return vdotq_s32(sum, x, w); }
};

using Simd = Neon4;
using Dots = DotsNeon<Sdot>;
using Bytes = NeonBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_neon_dotprod = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
