// Kervolution between 8-bit tensors: quantised input, filters and output, real scales. Parameter structs and launch
// functions of the CPU kernels: raw pointers, C linkage, no runtime.
//
//   manhattan  y = saturate(round(v / y_scale) + y_zero_point), ties to even, with v = -sum |x - w| + bias
//
// of x = (X - x_zero_point) * x_scale and w = (W - w_zero_point) * w_scale (Wang et al., CVPR 2019, arXiv 1904.03955).
// Padded positions hold x_zero_point. Where every w_scale equals x_scale the sum is exact, in integers, and
// v = -(x_scale * float(sum)) + bias in float32, rounded after each step: every instruction set gives the same bytes.
// Elsewhere x, w and the sum are float32. A quotient that is NaN becomes the lowest value of y.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_H_

#include "common/conv_shape.h"
#include "common/cpu_features.h"
#include "common/status.h"
#include "common/tiling.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum EdgeconvQLinearKernel { EDGECONV_QLINEAR_MANHATTAN = 0 } EdgeconvQLinearKernel;

// What the sums are made of.
typedef enum EdgeconvQLinearSums {
  EDGECONV_INTEGER_SUMS = 0,  // x and w in units of their common scale
  EDGECONV_FLOAT_SUMS = 1,    // x and w as real numbers
} EdgeconvQLinearSums;

typedef struct EdgeconvQLinearKervolutionParams {
  EdgeconvConvShape shape;
  int32_t kernel;                  // an EdgeconvQLinearKernel
  int32_t x_type, w_type, y_type;  // EDGECONV_UINT8 or EDGECONV_INT8
  int32_t sums;                    // an EdgeconvQLinearSums, from edgeconv_qlinear_kervolution_sums
  int32_t x_zero_point;
  float x_scale;
} EdgeconvQLinearKervolutionParams;

// Filters and how they are quantised: one value for all of them (stride 0) or one each (stride 1).
typedef struct EdgeconvQLinearFilters {
  const void* w;  // (M, C/group, kH, kW)
  const float* scale;
  int64_t scale_stride;
  const void* zero_point;  // of w's type
  int64_t zero_point_stride;
} EdgeconvQLinearFilters;

// Which inputs share an element of the register tile, if it is that which sums.
typedef enum EdgeconvByteLayout {
  EDGECONV_CHANNEL_BYTES = 0,    // neighbouring channels
  EDGECONV_COLUMN_BYTES = 1,     // neighbouring columns of the window
  EDGECONV_DEPTHWISE_BYTES = 2,  // none: lanes are bytes (qlinear_kervolution_depthwise.h)
} EdgeconvByteLayout;

enum { EDGECONV_DEPTHWISE_SLACK = 128 };  // bytes and sums that whole vectors read and write beyond the last

// How a call is cut into tasks, and what one thread's scratch holds: places in bytes from its beginning.
typedef struct EdgeconvQLinearKervolutionPlan {
  EdgeconvTiling tiling;
  EdgeconvConvShape elements;  // the shape in elements: what `tiling` cuts
  int64_t layout;              // an EdgeconvByteLayout; integer sums only
  int64_t element_bytes;
  int64_t filter_bytes;  // packed filters; after them one integer a channel, or 256 floats (what an x stands for)
  // The scratch begins with the strips, or with the padded rows (depthwise), of which `pitch` is the length.
  int64_t sums, patch_sums, offsets, line;
  int64_t pitch;
  int64_t scratch_bytes;
} EdgeconvQLinearKervolutionPlan;

typedef struct EdgeconvQLinearKervolutionArguments {
  const void* x;       // (N, C, H, W)
  const void* packed;  // from edgeconv_qlinear_kervolution_pack
  const float* bias;   // (M) or null
  float y_scale;
  int32_t y_zero_point;
  void* y;  // (N, M, H', W')
} EdgeconvQLinearKervolutionArguments;

// What an instruction set brings. One such object a file.
typedef struct EdgeconvQLinearKervolutionIsa {
  EdgeconvTileSize tile;
  int64_t element_bytes;   // that a step of the register tile takes at one position: 4 or 8
  int64_t sums_of_maxima;  // 1: it sums up max(x, w), of which |x - w| = 2 max(x, w) - x - w is made; 0: |x - w|
  void (*run)(const EdgeconvQLinearKervolutionParams* params, const EdgeconvQLinearKervolutionPlan* plan,
              const EdgeconvQLinearKervolutionArguments* arguments, int64_t task, void* scratch);
} EdgeconvQLinearKervolutionIsa;

extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_baseline;
extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx2;
extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx512;
extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_avx512_vnni;
extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_neon;
extern const EdgeconvQLinearKervolutionIsa edgeconv_qlinear_kervolution_neon_dotprod;

#pragma GCC visibility push(default)

// Which sums these scales allow; `filters` is their number.
int edgeconv_qlinear_kervolution_sums(float x_scale, const float* w_scale, int64_t scale_stride, int64_t filters);

// How the work is done for these shapes on instruction set `isa`. Only what packing needs is set where the shape lacks
// its input part. Fails where the integer sum of a filter's taps might not fit into 32 bits (4.2 million taps).
int edgeconv_qlinear_kervolution_plan(const EdgeconvQLinearKervolutionParams* params, int isa,
                                      EdgeconvQLinearKervolutionPlan* plan, EdgeconvStatus* status);

// Bytes of the packed weights.
size_t edgeconv_qlinear_kervolution_packed_bytes(const EdgeconvQLinearKervolutionParams* params,
                                                 const EdgeconvQLinearKervolutionPlan* plan);

// Packs filters for `isa` into `packed`, which should be aligned to 64 bytes.
void edgeconv_qlinear_kervolution_pack(const EdgeconvQLinearKervolutionParams* params, int isa,
                                       const EdgeconvQLinearKervolutionPlan* plan,
                                       const EdgeconvQLinearFilters* filters, void* packed);

// Bytes that every thread that runs tasks needs of its own: at most 1 MiB. Alignment 64.
size_t edgeconv_qlinear_kervolution_scratch_bytes(const EdgeconvQLinearKervolutionPlan* plan);

// Computes tasks [first, last) of plan->tiling.tasks. Tasks are independent and may run in any order on any thread.
void edgeconv_qlinear_kervolution_run(const EdgeconvQLinearKervolutionParams* params, int isa,
                                      const EdgeconvQLinearKervolutionPlan* plan,
                                      const EdgeconvQLinearKervolutionArguments* arguments, int64_t first, int64_t last,
                                      void* scratch);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_H_
