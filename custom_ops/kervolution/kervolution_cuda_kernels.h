// The two families of CUDA kernels behind kervolution_cuda.h: kernels of x.w (kervolution_cuda_dot.cu) and of |x - w|
// (kervolution_cuda_distance.cu). kervolution_cuda.cu asks the one that has the kernel.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_KERNELS_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_KERNELS_H_

#include "kervolution/kervolution_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

// Polynomial, gaussian, sigmoid, euclidean. What kervolution_cuda.cu checks before: types, and the size of tensors.
int edgeconv_kervolution_dot_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                       const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                       EdgeconvStatus* status);
int edgeconv_kervolution_dot_cuda_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                       const void* w, void* packed, void* stream, EdgeconvStatus* status);
int edgeconv_kervolution_dot_cuda_run(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                      const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                      EdgeconvStatus* status);

// Manhattan, chebyshev.
int edgeconv_kervolution_distance_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                            const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                            EdgeconvStatus* status);
int edgeconv_kervolution_distance_cuda_pack(const EdgeconvKervolutionParams* params,
                                            const EdgeconvKervolutionCudaPlan* plan, const void* w, void* packed,
                                            void* stream, EdgeconvStatus* status);
int edgeconv_kervolution_distance_cuda_run(const EdgeconvKervolutionParams* params,
                                           const EdgeconvKervolutionCudaPlan* plan,
                                           const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                           EdgeconvStatus* status);

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_KERNELS_H_
