// Convolutions between 8-bit tensors, alone and as the blocks of mobile networks, of which the activations between the
// convolutions never go to memory. Parameter structs and launch functions of the CPU kernels: raw pointers, C linkage,
// no runtime.
//
//   dense        any window, all channels (group 1): a convolution, or a block's expansion
//   depthwise    any window, a filter for each channel
//   pointwise    1x1: a block's projection
//   residual     X is added to the result
//
// A call has the stages of one of these: dense; depthwise; depthwise, pointwise; dense, depthwise, pointwise, and the
// residual if need be (Sandler et al., "MobileNetV2", CVPR 2018, arXiv 1801.04381, section 3.3).
//
// Each stage takes integers of its input's grid, and gives integers of its own:
//
//   sum = B + sum of (X - x_zero_point) * W                      exact, in 32 bits
//   y   = saturate(round(sum * m) + y_zero_point), cut to [round(min / y_scale), round(max / y_scale)] + y_zero_point
//
// with m = x_scale * w_scale / y_scale rounded to 22 bits, the product sum * m rounded to float32 (as is a sum beyond
// 2^24), and ties to even. With the residual y = saturate(round((P - p_zero_point) * a + (X - x_zero_point) * b) +
// y_zero_point), a = p_scale / y_scale and b = x_scale / y_scale in float32, every step rounded to float32. Every
// instruction set gives the same bytes. Padded positions hold x_zero_point.
//
// A dense stage alone may be a kervolution (Wang et al., CVPR 2019, arXiv 1904.03955), with d = x_scale * w_scale * sum
// and |x - w|^2 = x_scale^2 * sum of (X - x_zero_point)^2 + w_scale^2 * sum of W^2 - 2 d:
//
//   polynomial  f = (d + second)^degree           gaussian   f = exp(-first * max(0, |x - w|^2))
//   sigmoid     f = tanh(first * d + second)      euclidean  f = -max(0, |x - w|^2)
//   y = saturate(round((f + real_bias) / y_scale) + y_zero_point)
//
// Sums are exact there too; what follows is in float32, of which instruction sets may differ in the last digit.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_H_

#include "common/conv_shape.h"
#include "common/cpu_features.h"
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum EdgeconvMobileStage {
  EDGECONV_MOBILE_DENSE = 0,
  EDGECONV_MOBILE_DEPTHWISE = 1,
  EDGECONV_MOBILE_POINTWISE = 2,
  EDGECONV_MOBILE_STAGES = 3,
} EdgeconvMobileStage;

typedef struct EdgeconvQLinearGrid {
  float scale;
  int32_t zero_point;
} EdgeconvQLinearGrid;

// What becomes of a dense stage's sums.
typedef enum EdgeconvQLinearFunction {
  EDGECONV_NO_FUNCTION = 0,
  EDGECONV_QLINEAR_POLYNOMIAL = 1,
  EDGECONV_QLINEAR_GAUSSIAN = 2,
  EDGECONV_QLINEAR_SIGMOID = 3,
  EDGECONV_QLINEAR_EUCLIDEAN = 4,
} EdgeconvQLinearFunction;

// One convolution: its shape, and the grid and the limits of its results. Absent stages have 0 output channels.
typedef struct EdgeconvQLinearStage {
  EdgeconvConvShape shape;
  EdgeconvQLinearGrid y;
  float least, most;  // of the real results
} EdgeconvQLinearStage;

typedef struct EdgeconvQLinearMobileParams {
  EdgeconvQLinearStage stages[EDGECONV_MOBILE_STAGES];
  EdgeconvQLinearGrid x, sum;  // `sum`: of the result of the residual
  int32_t residual;            // 1: X is added
  int32_t type;                // of X, of the result, and of every zero-point: EDGECONV_UINT8 or EDGECONV_INT8
  int32_t x_channels_last, y_channels_last;  // 1: (N, H, W, C) in memory, 0: (N, C, H, W)
  int32_t function;                          // an EdgeconvQLinearFunction, of the dense stage where it is the only one
  int64_t degree;                            // polynomial only, at least 1
} EdgeconvQLinearMobileParams;

// What a stage is packed from.
typedef struct EdgeconvQLinearWeights {
  const int8_t* w;  // (M, C/group, kH, kW)
  const float* scale;
  int64_t scale_stride;  // 0: one scale for all filters, 1: one each
  const int32_t* bias;   // (M), in units of x_scale * w_scale; with a function null
  const float* first;    // parameters of the function that it has: one for all filters or one each
  const float* second;
  int64_t first_stride, second_stride;
  const float* real_bias;  // (M), with a function
} EdgeconvQLinearWeights;

// How the work is done.
typedef enum EdgeconvMobileOrder {
  EDGECONV_MOBILE_BY_ROWS = 0,      // a task is some rows of the result, in all channels
  EDGECONV_MOBILE_BY_CHANNELS = 1,  // small images: a task is a block of channels, and each stage has its own phase
} EdgeconvMobileOrder;

// Where a stage's parts are in the packed weights, in bytes from their beginning.
typedef struct EdgeconvMobilePacked {
  int64_t weights, bias, multipliers, offsets;
  int64_t functions;  // of each filter: first, second, the squared norm, real_bias
  int64_t depth;      // activations of a filter, padded: of all taps (dense), of a channel's rows (depthwise)
  int64_t blocks;     // of output channels
} EdgeconvMobilePacked;

// The packed weights begin with these, one of each for every stage.
typedef struct EdgeconvMobileHeader {
  int32_t far[4];     // 1: the quotients may be beyond 32-bit integers
  int32_t biased[4];  // 1: sums are the bits of floats (Dots::narrow_biased)
} EdgeconvMobileHeader;

typedef struct EdgeconvQLinearMobilePlan {
  EdgeconvMobilePacked packed[EDGECONV_MOBILE_STAGES];
  int64_t packed_bytes;
  int64_t first, last;  // stages
  int64_t order;        // an EdgeconvMobileOrder
  int64_t phases;       // of the whole call, one after the other: one, or one or two for each item of the batch
  int64_t tasks[2];     // of even and of odd phases
  int64_t rows, steps;  // rows of the result a task, and tasks of an image (by rows)
  int64_t pieces;       // of positions, that tasks of the last stage take (by channels)
  // A thread's scratch, in bytes from its beginning; what is not needed has no bytes.
  int64_t strip, strip_pitch, strip_rows;  // input as activations; a row of it in elements
  int64_t ring, ring_rows, ring_pitch;     // activations that the depthwise stage sees; rows, and elements of a row
  int64_t zeros;                           // such a row of padding
  int64_t columns;                         // interleaved rows of the depthwise stage
  int64_t places;                          // of positions in the ring
  int64_t window;                          // pointers to the rows of a window
  int64_t middle;                          // results of the depthwise stage, of a step (by rows)
  int64_t pixels, norms;                   // squared norms of the rows' pixels, and of the positions' windows
  int64_t result, added;                   // a block's bytes that are to be transposed, and those of the residual
  int64_t scratch_bytes;
  int64_t shared_bytes;  // results of the depthwise stage, of an image (by channels)
} EdgeconvQLinearMobilePlan;

typedef struct EdgeconvQLinearMobileArguments {
  const uint8_t* x;
  const void* packed;
  void* shared;  // plan->shared_bytes, the same for all threads and phases
  uint8_t* y;
} EdgeconvQLinearMobileArguments;

// What an instruction set brings. One such object a file.
typedef struct EdgeconvQLinearMobileIsa {
  int64_t lanes, depth, vectors, element_bytes;  // of its Dots (common/dots_baseline.h)
  int64_t offset, biased;
  void (*run)(const EdgeconvQLinearMobileParams* params, const EdgeconvQLinearMobilePlan* plan,
              const EdgeconvQLinearMobileArguments* arguments, int64_t phase, int64_t task, void* scratch);
} EdgeconvQLinearMobileIsa;

extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_baseline;
extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_avx2;
extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_avx512_vnni;
extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_amx;
extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_neon;
extern const EdgeconvQLinearMobileIsa edgeconv_qlinear_mobile_neon_dotprod;

#pragma GCC visibility push(default)

// The part of the plan that packing needs: it does not depend on the input's size. Fails where the stages do not fit
// together or are of a kind that there is no kernel for.
int edgeconv_qlinear_mobile_packing_plan(const EdgeconvQLinearMobileParams* params, int isa,
                                         EdgeconvQLinearMobilePlan* plan, EdgeconvStatus* status);

// Packs the weights of every stage for `isa` into plan->packed_bytes bytes, which should be aligned to 64. Fails where
// a sum might not fit into 32 bits.
int edgeconv_qlinear_mobile_pack(const EdgeconvQLinearMobileParams* params, int isa,
                                 const EdgeconvQLinearMobilePlan* plan, const EdgeconvQLinearWeights* weights,
                                 void* packed, EdgeconvStatus* status);

// Sets the input's size in the shapes of all stages and completes the plan. `windows` are the attributes of each stage.
// Fails where a window does not fit.
int edgeconv_qlinear_mobile_plan(EdgeconvQLinearMobileParams* params, int isa, int64_t batch, int64_t height,
                                 int64_t width, const EdgeconvConvAttributes* windows, EdgeconvQLinearMobilePlan* plan,
                                 EdgeconvStatus* status);

// Prepares a thread's scratch, aligned to 64, before its first task of a call.
void edgeconv_qlinear_mobile_begin(void* scratch);

// Computes tasks [first, last) of a phase. Tasks are independent and may run in any order on any thread; a thread that
// runs them in order with the same scratch keeps what neighbouring tasks share.
void edgeconv_qlinear_mobile_run(const EdgeconvQLinearMobileParams* params, int isa,
                                 const EdgeconvQLinearMobilePlan* plan, const EdgeconvQLinearMobileArguments* arguments,
                                 int64_t phase, int64_t first, int64_t last, void* scratch);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_H_
