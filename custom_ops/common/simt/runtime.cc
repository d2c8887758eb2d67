// The part of the CUDA runtime that launch functions and glue call, on the host: device memory is memory, and
// everything happens at once. A build with host execution links this instead of cudart.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "common/simt/launch.h"

namespace {

using simt::set_last_error;

// As on a GPU, and enough for every vector type.
constexpr size_t kAlignment = 256;

cudaError_t refuse(const char* message) { return set_last_error(cudaErrorInvalidValue, message); }

// A stream has no state: any address that is not null.
char stream_tag;

cudaError_t new_stream(cudaStream_t* stream) {
  if (stream == nullptr) return refuse("cudaStreamCreate: no place for the stream");
  *stream = reinterpret_cast<cudaStream_t>(&stream_tag);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return simt::peek_last_error(true); }
cudaError_t cudaPeekAtLastError() { return simt::peek_last_error(false); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorIllegalInstruction: return "an illegal instruction was encountered";
    case cudaErrorMisalignedAddress: return "misaligned address";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorLaunchTimeout: return "the launch timed out and was terminated";
    case cudaErrorNotSupported: return "operation not supported";
    default: return "unknown error";
  }
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorIllegalInstruction: return "cudaErrorIllegalInstruction";
    case cudaErrorMisalignedAddress: return "cudaErrorMisalignedAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorLaunchTimeout: return "cudaErrorLaunchTimeout";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "unrecognized error code";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : set_last_error(cudaErrorInvalidDevice, "host execution has device 0 alone");
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return set_last_error(cudaErrorInvalidDevice, "host execution has device 0 alone");
  const simt::Device& properties = *simt::settings().device;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.compute_capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.compute_capability % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiprocessors; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = simt::kMostThreads; break;
    case cudaDevAttrMaxBlockDimZ: *value = simt::kMostThreadsZ; break;
    case cudaDevAttrMaxGridDimX: *value = static_cast<int>(simt::kMostBlocksX); break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = static_cast<int>(simt::kMostBlocksYZ); break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.threads_per_multiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = simt::kDefaultSharedBytes; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = properties.shared_bytes_per_block; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = properties.shared_bytes_per_multiprocessor; break;
    default: return refuse("cudaDeviceGetAttribute: host execution does not know this attribute");
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;  // a hint
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    return refuse("cudaFuncSetAttribute: host execution does not know this attribute");
  }
  return simt::set_dynamic_limit(function, value);
}

cudaError_t cudaMalloc(void** address, size_t bytes) {
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  // Just as many bytes as asked for, so that a sanitizer sees one too many.
  if (posix_memalign(address, kAlignment, bytes) != 0) {
    *address = nullptr;
    return set_last_error(cudaErrorMemoryAllocation, "cudaMalloc: no memory for " + std::to_string(bytes) + " bytes");
  }
  std::memset(*address, 0xff, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) { return cudaMalloc(address, bytes); }
cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return cudaMemset(to, value, bytes); }

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return new_stream(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) { return new_stream(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

}  // extern "C"
