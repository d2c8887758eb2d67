// Launch functions of the CUDA kernels of kervolution: device pointers and a stream, C linkage, no runtime but CUDA's.
// kervolution.h has the equations; what it says of padding, NaN and precision holds here, too.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_H_

#include "common/cuda_launch.h"
#include "kervolution/kervolution.h"

#ifdef __cplusplus
extern "C" {
#endif

// Sizes, and how the work is cut into blocks.
typedef struct EdgeconvKervolutionCudaPlan {
  EdgeconvCudaFormat format;
  int32_t tile;             // a row of the table that the kernel's file has
  int32_t splits;           // parts of the sum over taps, computed side by side
  int64_t packed_bytes;     // packed filters, on the device
  int64_t workspace_bytes;  // of a call, on the device
} EdgeconvKervolutionCudaPlan;

// All are device pointers, aligned to 16 bytes but for `bias` and channel values.
typedef struct EdgeconvKervolutionCudaArguments {
  const void* x;
  const void* w;                  // (M, C/group, kH, kW)
  const void* packed;             // from edgeconv_kervolution_cuda_pack
  EdgeconvChannelValues balance;  // polynomial, sigmoid
  EdgeconvChannelValues scale;    // gaussian: gamma; sigmoid: scale
  const void* bias;               // (M) of the element type, or null
  void* workspace;
  void* y;
} EdgeconvKervolutionCudaArguments;

#pragma GCC visibility push(default)

// How the work is done on `device`. Without the input part of the shape only what packing needs is set: packed filters
// do not depend on the input's size. params->precision is taken for float32.
int edgeconv_kervolution_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                   const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                   EdgeconvStatus* status);

// Packs filters from `w` into `packed`, both on the device.
int edgeconv_kervolution_cuda_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                   const void* w, void* packed, void* stream, EdgeconvStatus* status);

// Computes y. With NHWC the channels between M and the pitch of y become zero.
int edgeconv_kervolution_cuda_run(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                  const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                  EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_H_
