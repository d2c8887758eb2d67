// Convolutions and mobile blocks between 8-bit tensors for NEON. Everything but the last object
// has internal linkage.
#include "common/byte_vectors.h"
#include "common/dots_neon.h"

namespace {

// Products in 16 bits, then pairs and pairs of pairs in 32: the sum of two products may not fit into 16.
struct Widened {
  static inline int32x4_t dot(int32x4_t sum, int8x16_t x, int8x16_t w) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(x, w));
    return vaddq_s32(sum, vpaddq_s32(low, high));
  }
};

using Simd = Neon4;
using Dots = DotsNeon<Widened>;
using Bytes = NeonBytes;

}  // namespace

#include "qlinear_mobile/qlinear_mobile_kernel.h"

extern "C" const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_neon = {
    Dots::kLanes, Dots::kDepth, Dots::kVectors, sizeof(Element), Dots::kOffset, Dots::kBiased, run_task};
