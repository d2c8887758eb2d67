// A kernel launch: checks it as a GPU would, runs its blocks, and keeps the error.
#ifndef EDGECONV_COMMON_SIMT_LAUNCH_H_
#define EDGECONV_COMMON_SIMT_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "common/simt/settings.h"

namespace simt {

// A kernel with its arguments.
struct Call {
  const char* text;      // the launch's arguments as they are written, the kernel first
  const void* function;  // what cudaFuncSetAttribute knows the kernel by
  void (*run)(const void* arguments);
  const void* arguments;
};

struct Launch {
  Call call;
  Settings settings;
  std::string name;  // the kernel's
  dim3 grid, block;
  size_t shared_bytes;

  // The first error of all blocks.
  std::mutex mutex;
  cudaError_t error = cudaSuccess;
  std::string message;

  void record(cudaError_t code, const std::string& text);
  bool failed();
};

// Executes at once. A failure is also what cudaGetLastError returns next.
cudaError_t launch(const Call& call, dim3 grid, dim3 block, size_t shared_bytes);

// cudaFuncAttributeMaxDynamicSharedMemorySize.
cudaError_t set_dynamic_limit(const void* function, int64_t bytes);

// Makes `code` the last error of this OS thread, and returns it.
cudaError_t set_last_error(cudaError_t code, const std::string& message);
cudaError_t peek_last_error(bool forget);

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_LAUNCH_H_
