// Launch functions of the CUDA kernels of 8-bit kervolution: device pointers and a stream, C linkage, no runtime but
// CUDA's. qlinear_kervolution.h has the equations; integer sums give the same bytes as on CPUs.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_H_

#include "common/cuda_launch.h"
#include "qlinear_kervolution/qlinear_kervolution.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EdgeconvQLinearKervolutionCudaPlan {
  EdgeconvCudaFormat format;
  int32_t tile;             // a row of the table that the kernel's file has
  int32_t splits;           // parts of the sum over taps, computed side by side
  int64_t packed_bytes;     // packed filters, on the device
  int64_t workspace_bytes;  // of a call, on the device
} EdgeconvQLinearKervolutionCudaPlan;

typedef struct EdgeconvQLinearKervolutionCudaArguments {
  const void* x;
  const void* packed;  // from edgeconv_qlinear_kervolution_cuda_pack
  const float* bias;   // (M) or null
  float y_scale;
  int32_t y_zero_point;
  void* workspace;
  void* y;
} EdgeconvQLinearKervolutionCudaArguments;

#pragma GCC visibility push(default)

// How the work is done on `device`. Without the input part of the shape only what packing needs is set.
int edgeconv_qlinear_kervolution_cuda_plan(const EdgeconvQLinearKervolutionParams* params,
                                           const EdgeconvCudaFormat* format, const EdgeconvCudaDevice* device,
                                           EdgeconvQLinearKervolutionCudaPlan* plan, EdgeconvStatus* status);

// Packs filters, which lie on the device with their scales and zero-points.
int edgeconv_qlinear_kervolution_cuda_pack(const EdgeconvQLinearKervolutionParams* params,
                                           const EdgeconvQLinearKervolutionCudaPlan* plan,
                                           const EdgeconvQLinearFilters* filters, void* packed, void* stream,
                                           EdgeconvStatus* status);

// Computes y. With NHWC the channels between M and the pitch of y become y_zero_point.
int edgeconv_qlinear_kervolution_cuda_run(const EdgeconvQLinearKervolutionParams* params,
                                          const EdgeconvQLinearKervolutionCudaPlan* plan,
                                          const EdgeconvQLinearKervolutionCudaArguments* arguments, void* stream,
                                          EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_H_
