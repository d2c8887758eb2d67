// Launch functions of the CUDA kernels of whitening: device pointers and a stream, C linkage, no runtime but CUDA's.
// deconv_whitening.h has the definition. The kernels' number and order depend on shapes and attributes alone: what
// depends on values (largest magnitude, scale, norm, eps through the steps) stays on the device.
//
// Samples are gathered twice: once for their mean and magnitudes, then centred and scaled into the workspace, by chunks
// of positions. Their products, and those of Newton-Schulz, are float32 sums by tiles, never TF32; sums over samples
// are split for occupancy, and added up in one order. Groups go side by side, as many as the workspace has room for.
// With up to 64 features one block takes a group's root in shared memory.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_H_

#include "common/cuda_launch.h"
#include "deconv_whitening/deconv_whitening.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EdgeconvDeconvWhiteningCudaPlan {
  EdgeconvCudaFormat format;  // y has no layout: mean (G, F) and deconv (G, F, F) are dense float32
  int32_t few_samples;        // 1: the root is taken of the samples' products
  int32_t splits;             // parts of the sum over samples, computed side by side
  int64_t workspace_bytes;    // of a call, on the device
  int32_t small;              // 1: one block takes the root of a group
  int32_t order, pitch;       // of the matrix of which the root is taken: rows, and elements from one to the next
  int32_t feature_pitch;      // elements from one packed sample to the next
  int32_t sum_parts;          // of the positions of a block of channels, summed side by side
  int32_t part_tiles;         // tiles of positions that each has
  int32_t norm_parts;         // of the squared norm
  int32_t group_batch;        // groups that are done side by side
  int32_t chunk_positions;    // whose samples are packed at a time
  int32_t sample_tile, root_tile, whole_tile, spread_tile, result_tile;  // side of a block's tile in each product
  // Of a group: places in its slab of workspace, in bytes.
  int64_t scalars, norms, means, magnitudes, sums, least, largest;
  int64_t rows, columns;  // packed samples: [sample][feature], and with few samples [feature][sample]
  int64_t partials;       // covariances of the splits; end when Newton-Schulz begins
  int64_t y[2], z[2], t, t_mirror;
  int64_t d, factor, d_samples;  // with few samples
  int64_t group_bytes;           // of a slab
} EdgeconvDeconvWhiteningCudaPlan;

#pragma GCC visibility push(default)

// How the work is done on a device. Memory for each group at work: five matrices of F * F floats (six for more than
// five steps; with few samples seven of P * P and three of P * F), partial sums, and packed samples, at most 32 MiB for
// all groups or 32 positions. Groups are at work together as far as that takes 64 MiB.
//
// EDGECONV_UNSUPPORTED for an x of 2^31 elements or more, and for windows that reach as far.
int edgeconv_deconv_whitening_cuda_plan(const EdgeconvDeconvWhiteningParams* params, const EdgeconvCudaFormat* format,
                                        const EdgeconvCudaDevice* device, EdgeconvDeconvWhiteningCudaPlan* plan,
                                        EdgeconvStatus* status);

// Computes mean and deconv; the arguments are device pointers, aligned to 16 bytes. The workspace may hold anything.
int edgeconv_deconv_whitening_cuda_run(const EdgeconvDeconvWhiteningParams* params,
                                       const EdgeconvDeconvWhiteningCudaPlan* plan,
                                       const EdgeconvDeconvWhiteningArguments* arguments, void* stream,
                                       EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_H_
