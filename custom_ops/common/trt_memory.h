// Device memory that a plugin keeps for as long as its execution context lives.
#ifndef EDGECONV_COMMON_TRT_MEMORY_H_
#define EDGECONV_COMMON_TRT_MEMORY_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

namespace edgeconv::trt {

constexpr int64_t kAlignment = 256;  // of what cudaMalloc gives

inline int64_t align(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Memory from TensorRT's allocator, freed with the object. Kernels in flight may still use what a call to reserve()
// replaces, so that it is kept, too: a plugin asks for more only where a shape needs more than all before.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(nvinfer1::IGpuAllocator* allocator) : allocator_(allocator) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Whether there are at least `bytes` bytes now. Synchronises when it allocates: not while a graph is captured.
  bool reserve(int64_t bytes);
  void* get() const { return blocks_.empty() ? nullptr : blocks_.back(); }
  int64_t bytes() const { return bytes_; }

 private:
  nvinfer1::IGpuAllocator* allocator_ = nullptr;
  std::vector<void*> blocks_;
  int64_t bytes_ = 0;  // of the last
};

// Whether what is enqueued on `stream` is recorded for a CUDA graph instead of executed.
bool is_capturing(cudaStream_t stream);

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_MEMORY_H_
