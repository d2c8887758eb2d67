// Warp matrix instructions. Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k8", "... mma.m16n8k16 with floating point
// type", "... mma.m16n8k32", and "Warp-level matrix load instruction: ldmatrix".
#ifndef EDGECONV_COMMON_SIMT_MATRIX_H_
#define EDGECONV_COMMON_SIMT_MATRIX_H_

#include <cstdint>

#include "common/simt/place.h"

namespace simt {

// sums[4] += a[4] * b[2], registers of one lane.
void mma_f16(float* sums, const uint32_t* a, const uint32_t* b, Where where);
void mma_tf32(float* sums, const uint32_t* a, const uint32_t* b, Where where);
void mma_int8(int32_t* sums, const uint32_t* a, const uint32_t* b, bool a_signed, bool b_signed, Where where);

// Lane 8 * m + r gives the address of row r of matrix m; each lane gets two elements of each matrix.
void ldmatrix(uint32_t* to, const void* row, int matrices, bool transposed, Where where);

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_MATRIX_H_
