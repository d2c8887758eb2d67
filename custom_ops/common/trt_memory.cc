#include "common/trt_memory.h"

#include <cuda_runtime_api.h>

namespace edgeconv::trt {

DeviceMemory::~DeviceMemory() {
  for (void* block : blocks_) allocator_->deallocateAsync(block, nullptr);
}

bool DeviceMemory::reserve(int64_t bytes) {
  if (bytes <= bytes_) return true;
  if (allocator_ == nullptr) return false;
  blocks_.reserve(blocks_.size() + 1);
  void* const block = allocator_->allocateAsync(static_cast<uint64_t>(bytes), kAlignment, 0, nullptr);
  if (block == nullptr) return false;
  blocks_.push_back(block);
  bytes_ = bytes;
  // The allocation is in the order of the default stream, and the memory will be used on another.
  if (cudaStreamSynchronize(nullptr) == cudaSuccess) return true;
  cudaGetLastError();
  bytes_ = 0;
  return false;
}

#if defined(EDGECONV_SIMT)

namespace {
bool simulated_capture = false;
}

// For tests: whether the host's streams pretend to be captured.
extern "C" __attribute__((visibility("default"))) void edgeconv_trt_set_capturing(int capturing) {
  simulated_capture = capturing != 0;
}

bool is_capturing(cudaStream_t) { return simulated_capture; }

#else

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus state = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &state) == cudaSuccess) return state != cudaStreamCaptureStatusNone;
  cudaGetLastError();
  return true;
}

#endif

}  // namespace edgeconv::trt
