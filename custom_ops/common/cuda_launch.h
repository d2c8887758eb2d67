// What launch functions of CUDA kernels take beside raw pointers, known to glue that includes nothing of CUDA's.
//
// Launch functions never synchronise, allocate nothing and read nothing back, so that a CUDA graph can capture them.
// Streams are cudaStream_t, as void* here. An error that CUDA reports becomes a status with CUDA's name of it.
#ifndef EDGECONV_COMMON_CUDA_LAUNCH_H_
#define EDGECONV_COMMON_CUDA_LAUNCH_H_

#include <stdint.h>

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

// Of activations in memory; filters come as ONNX has them, (M, C/group, kH, kW).
typedef enum EdgeconvLayout {
  EDGECONV_NCHW = 0,
  EDGECONV_NHWC = 1,  // channels padded with zeros to a multiple of `channel_pitch`
} EdgeconvLayout;

// How products of float32 values are computed; float16 products are exact in float32 sums always.
typedef enum EdgeconvCudaMath {
  EDGECONV_CUDA_FLOAT32 = 0,
  EDGECONV_CUDA_TF32 = 1,  // tensor cores, factors rounded to 10 bits: a permission
} EdgeconvCudaMath;

// What tile choice depends on. Filled by edgeconv_cuda_device, or by a test.
typedef struct EdgeconvCudaDevice {
  int32_t compute_capability;  // 87 for 8.7
  int32_t multiprocessors;
  int64_t shared_bytes;  // that a block may have, opted in
} EdgeconvCudaDevice;

// Layout and arithmetic of one operator's tensors.
typedef struct EdgeconvCudaFormat {
  int32_t layout;  // an EdgeconvLayout, of x and y
  int32_t math;    // an EdgeconvCudaMath
  int64_t x_channel_pitch,
      y_channel_pitch;  // NHWC: elements from one pixel to the next, at least C and M; NCHW: unused
} EdgeconvCudaFormat;

#pragma GCC visibility push(default)

// The current device. EDGECONV_UNSUPPORTED, with the cause, where there is none or it is older than 8.0.
int edgeconv_cuda_device(EdgeconvCudaDevice* device, EdgeconvStatus* status);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_CUDA_LAUNCH_H_
