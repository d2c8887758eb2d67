// Kervolution (Wang et al., CVPR 2019, arXiv 1904.03955): a convolution whose inner product over a patch x and a filter
// w is replaced by a kernel. Parameter structs and launch functions of the CPU kernels: raw pointers, C linkage, no
// runtime.
//
//   polynomial  y = (x.w + balance)^degree + bias      euclidean  y = -max(0, |x - w|^2) + bias
//   gaussian    y = exp(-gamma * max(0, |x - w|^2)) + bias
//   sigmoid     y = tanh(scale * x.w + balance) + bias
//   manhattan   y = -sum |x - w| + bias                chebyshev  y = -max |x - w| + bias
//
// Padded positions are zeros that take part in the kernel. |x - w|^2 is computed as |x|^2 + |w|^2 - 2 x.w where that
// keeps its digits, and is infinite where |x|^2 + |w|^2 is. NaN in x or w reaches the outputs that it takes part in.
// Sums are float32; float16 results are rounded once.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_H_

#include "common/conv_shape.h"
#include "common/cpu_features.h"
#include "common/status.h"
#include "common/tiling.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum EdgeconvKernel {
  EDGECONV_POLYNOMIAL = 0,
  EDGECONV_GAUSSIAN = 1,
  EDGECONV_SIGMOID = 2,
  EDGECONV_EUCLIDEAN = 3,
  EDGECONV_MANHATTAN = 4,
  EDGECONV_CHEBYSHEV = 5,
} EdgeconvKernel;

// How products may be computed: a permission, of which instruction sets and shapes that have no use for it make none.
typedef enum EdgeconvPrecision {
  EDGECONV_FLOAT32_PRECISION = 0,
  EDGECONV_BF16X3 = 1,  // kernels of x.w: each factor the sum of two bfloat16 numbers, three of their four products
} EdgeconvPrecision;

typedef struct EdgeconvKervolutionParams {
  EdgeconvConvShape shape;
  int32_t kernel;        // an EdgeconvKernel
  int32_t element_type;  // an EdgeconvElementType: of x, w, bias and y
  int64_t degree;        // polynomial only, at least 1
  int64_t precision;     // an EdgeconvPrecision
} EdgeconvKervolutionParams;

// One value for all output channels (stride 0) or one a channel (stride 1).
typedef struct EdgeconvChannelValues {
  const float* values;
  int64_t stride;
} EdgeconvChannelValues;

// Ways to compute the same.
typedef enum EdgeconvAlgorithm {
  EDGECONV_DIRECT = 0,        // every tap of every patch (kervolution_direct.h)
  EDGECONV_WINOGRAD = 1,      // 3 x 3 sums of products (kervolution_winograd.h)
  EDGECONV_DEPTHWISE = 2,     // one input channel a filter (kervolution_depthwise.h)
  EDGECONV_BF16X3_TILES = 3,  // products in pairs of bfloat16 numbers (kervolution_bf16x3.h)
} EdgeconvAlgorithm;

// What packing finds out about the filters as a whole; follows the sums of the channels.
typedef enum EdgeconvFilterValue {
  EDGECONV_LARGEST_MAGNITUDE = 0,  // NaN above all
  EDGECONV_HAVE_OFFSET = 1,        // 1 where their mean is far larger than their spread, else 0
  EDGECONV_FILTER_VALUES = 2,
} EdgeconvFilterValue;

// How a call is cut into tasks, and what one thread's scratch holds: places in floats from its beginning.
typedef struct EdgeconvKervolutionPlan {
  EdgeconvTiling tiling;
  int64_t packing;        // the EdgeconvAlgorithm that the filters are packed for: by their shape alone
  int64_t algorithm;      // the one that computes the ordinary; the direct one packs filters that are packed otherwise
  int64_t packed_floats;  // packed filters; after them one sum a channel, then EdgeconvFilterValue
  // The scratch begins with the strips (direct, bf16x3), the transformed input (Winograd) or the rows (depthwise).
  int64_t sums, outputs, patch_sums, work, offsets, weights, channels;
  int64_t pitch;        // from one channel's transformed tiles (Winograd), or one row (depthwise), to the next
  int64_t plane;        // depthwise: from one phase's rows to the next
  int64_t group_chunk;  // groups a task: 1 but for depthwise
  int64_t scratch_floats;
  int64_t block_pairs;  // bf16x3: pairs of input channels that are summed at a time
} EdgeconvKervolutionPlan;

typedef struct EdgeconvKervolutionArguments {
  const void* x;                  // (N, C, H, W)
  const void* w;                  // (M, C/group, kH, kW): for values that the algorithm of the plan does not serve
  const float* packed;            // from edgeconv_kervolution_pack
  EdgeconvChannelValues balance;  // polynomial, sigmoid
  EdgeconvChannelValues scale;    // gaussian: gamma; sigmoid: scale
  const void* bias;               // (M) or null
  void* y;                        // (N, M, H', W')
} EdgeconvKervolutionArguments;

// What an instruction set brings: the size of its register tile and the task function. One such object a file.
typedef struct EdgeconvKervolutionIsa {
  EdgeconvTileSize tile;
  void (*run)(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
              const EdgeconvKervolutionArguments* arguments, int64_t task, void* scratch);
} EdgeconvKervolutionIsa;

extern const EdgeconvKervolutionIsa edgeconv_kervolution_baseline;
extern const EdgeconvKervolutionIsa edgeconv_kervolution_avx2;
extern const EdgeconvKervolutionIsa edgeconv_kervolution_avx512;
extern const EdgeconvKervolutionIsa edgeconv_kervolution_amx;  // EDGECONV_BF16X3_TILES alone, planned as avx512
extern const EdgeconvKervolutionIsa edgeconv_kervolution_neon;

#pragma GCC visibility push(default)

// How the work is done for these shapes on instruction set `isa`. Only what packing needs is set where the shape lacks
// its input part.
int edgeconv_kervolution_plan(const EdgeconvKervolutionParams* params, int isa, EdgeconvKervolutionPlan* plan,
                              EdgeconvStatus* status);

// Bytes of the packed weights: the filters as floats, one sum a channel, and EdgeconvFilterValue.
size_t edgeconv_kervolution_packed_bytes(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan);

// Packs w (M, C/group, kH, kW) into `packed`, which should be aligned to 64 bytes.
void edgeconv_kervolution_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionPlan* plan,
                               const void* w, float* packed);

// Bytes that every thread that runs tasks needs of its own: at most 1 MiB. Alignment 64.
size_t edgeconv_kervolution_scratch_bytes(const EdgeconvKervolutionPlan* plan);

// Computes tasks [first, last) of plan->tiling.tasks. Tasks are independent and may run in any order on any thread.
void edgeconv_kervolution_run(const EdgeconvKervolutionParams* params, int isa, const EdgeconvKervolutionPlan* plan,
                              const EdgeconvKervolutionArguments* arguments, int64_t first, int64_t last,
                              void* scratch);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_H_
