// From CUDA's errors to ours.
#ifndef EDGECONV_COMMON_CUDA_STATUS_H_
#define EDGECONV_COMMON_CUDA_STATUS_H_

#include <cuda_runtime.h>

#include "common/status.h"

#if defined(EDGECONV_SIMT)
#include "common/simt/settings.h"
#endif

namespace {

// EDGECONV_OK for cudaSuccess. `what` names what was tried, as in "the launch of the packing kernel". The error is
// taken from the runtime, so that the next launch does not report it again.
inline int cuda_status(cudaError_t error, const char* what, EdgeconvStatus* status) {
  if (error == cudaSuccess) return EDGECONV_OK;
  cudaGetLastError();
#if defined(EDGECONV_SIMT)
  const char* const detail = edgeconv_simt_last_error();
#else
  const char* const detail = "";
#endif
  const int code = error == cudaErrorMemoryAllocation ? EDGECONV_OUT_OF_MEMORY : EDGECONV_UNSUPPORTED;
  return edgeconv_set_status(status, code, "%s failed: %s (%s)%s%s", what, cudaGetErrorString(error),
                             cudaGetErrorName(error), detail[0] == '\0' ? "" : ": ", detail);
}

}  // namespace

#endif  // EDGECONV_COMMON_CUDA_STATUS_H_
