// Means of 8-bit tensors over all positions: launch functions of the CPU kernel. Raw pointers, C linkage, no runtime.
//
//   sum = sum of (X - x_zero_point) over the P positions of a channel          exact, in 32 bits
//   y   = saturate(round(sum * m) + y_zero_point)
//
// with m = x_scale / (P * y_scale) rounded to 22 bits, the sum (beyond 2^24) and the product rounded to float32, ties
// to even.
#ifndef EDGECONV_QLINEAR_POOL_QLINEAR_POOL_H_
#define EDGECONV_QLINEAR_POOL_QLINEAR_POOL_H_

#include "common/conv_shape.h"
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EdgeconvQLinearPoolParams {
  int64_t batch, channels, positions;
  int32_t type;           // of X and of the result: EDGECONV_UINT8 or EDGECONV_INT8
  int32_t channels_last;  // 1: X is (N, positions, C) in memory, 0: (N, C, positions)
  float x_scale, y_scale;
  int32_t x_zero_point, y_zero_point;
} EdgeconvQLinearPoolParams;

#pragma GCC visibility push(default)

// Means of all channels, (N, C). Fails where there is no position, or so many that a sum might not fit into 32 bits.
int edgeconv_qlinear_pool(const EdgeconvQLinearPoolParams* params, const uint8_t* x, uint8_t* y,
                          EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_QLINEAR_POOL_QLINEAR_POOL_H_
