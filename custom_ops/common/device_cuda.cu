// What kernels need to know of the current GPU.
#include "common/cuda_device.h"
#include "common/cuda_launch.h"
#include "common/cuda_status.h"

namespace {

constexpr int32_t kLeastComputeCapability = 80;  // cp.async, and mma of TF32

}  // namespace

extern "C" int edgeconv_cuda_device(EdgeconvCudaDevice* device, EdgeconvStatus* status) {
  int number = 0;
  const cudaError_t found = cudaGetDevice(&number);
  if (found != cudaSuccess) return cuda_status(found, "The search for a CUDA device", status);
  int major = 0, minor = 0, multiprocessors = 0, shared_bytes = 0;
  struct {
    int* value;
    cudaDeviceAttr attribute;
  } const wanted[] = {
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&multiprocessors, cudaDevAttrMultiProcessorCount},
      {&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin},
  };
  for (const auto& want : wanted) {
    const cudaError_t error = cudaDeviceGetAttribute(want.value, want.attribute, number);
    if (error != cudaSuccess) return cuda_status(error, "Reading the CUDA device's attributes", status);
  }
  *device = {major * 10 + minor, multiprocessors, shared_bytes};
  if (device->compute_capability < kLeastComputeCapability) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "CUDA device %d has compute capability %d.%d, and the CUDA kernels need %d.%d or later: "
                               "run this model on the CPU provider, or on a newer GPU",
                               number, major, minor, kLeastComputeCapability / 10, kLeastComputeCapability % 10);
  }
  return EDGECONV_OK;
}
