// Launch functions of the CUDA kernels of whitening: device pointers and a stream, C linkage, no runtime but CUDA's.
// deconv_whitening.h has the definition. The kernels' number and order depend on shapes and attributes alone.
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
} EdgeconvDeconvWhiteningCudaPlan;

#pragma GCC visibility push(default)

int edgeconv_deconv_whitening_cuda_plan(const EdgeconvDeconvWhiteningParams* params, const EdgeconvCudaFormat* format,
                                        const EdgeconvCudaDevice* device, EdgeconvDeconvWhiteningCudaPlan* plan,
                                        EdgeconvStatus* status);

// Computes mean and deconv; the arguments are device pointers, aligned to 16 bytes.
int edgeconv_deconv_whitening_cuda_run(const EdgeconvDeconvWhiteningParams* params,
                                       const EdgeconvDeconvWhiteningCudaPlan* plan,
                                       const EdgeconvDeconvWhiteningArguments* arguments, void* stream,
                                       EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_CUDA_H_
