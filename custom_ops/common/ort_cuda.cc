#include "common/ort_cuda.h"

#include <cuda_runtime.h>

#include <string>

#include "common/cuda_status.h"

namespace edgeconv {
namespace {

constexpr uintptr_t kAlignment = 16;

size_t element_bytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return 2;
    default: return 4;
  }
}

bool is_on_host(const OrtApi* api, const OrtValue* value) {
  const OrtMemoryInfo* memory = nullptr;
  check(api, api->GetTensorMemoryInfo(value, &memory));
  OrtMemoryInfoDeviceType type = OrtMemoryInfoDeviceType_CPU;
  api->MemoryInfoGetDeviceType(memory, &type);
  return type == OrtMemoryInfoDeviceType_CPU;
}

// What `allocate` makes, null where there is no memory, or its exceptions: ONNX Runtime's allocators throw theirs
// through the C interface.
template <typename Allocate>
Buffer allocated(OrtAllocator* allocator, int64_t bytes, const char* what, const Allocate& allocate) {
  if (bytes == 0) return {};
  void* data = nullptr;
  try {
    data = allocate();
  } catch (...) {
  }
  if (data == nullptr) {
    throw Error{ORT_FAIL, "out of device memory: no " + std::to_string(bytes) + " bytes for " + what};
  }
  return Buffer::adopt(allocator, data);
}

}  // namespace

void run_on_cuda(const Runtime& runtime, OrtCustomOp* op) {
  if (runtime.cuda_on_host) return;  // begin_custom_op has said CPUExecutionProvider
  op->GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CUDAExecutionProvider"; };
}

void check(int code, const EdgeconvStatus& status, NamedTensors tensors) {
  if (code == EDGECONV_OK) return;
  std::string message = status.message;
  const char* separator = " (";
  for (const auto& [name, tensor] : tensors) {
    message += std::string(separator) + name + " has shape " + to_text(tensor->dims);
    separator = ", ";
  }
  throw Error{code == EDGECONV_INVALID_ARGUMENT ? ORT_INVALID_ARGUMENT : ORT_FAIL, message + ")"};
}

CudaSession::CudaSession(const OrtApi* api, const OrtKernelInfo* info, bool tf32)
    : api_(api), allocator_(kernel_allocator(api, info)) {
  EdgeconvStatus status = {};
  check(edgeconv_cuda_device(&device_, &status), status);
  format_.layout = EDGECONV_NCHW;
  format_.math = tf32 ? EDGECONV_CUDA_TF32 : EDGECONV_CUDA_FLOAT32;
}

void* CudaSession::stream(OrtKernelContext* context) const {
  void* stream = nullptr;
  check(api_, api_->KernelContext_GetGPUComputeStream(context, &stream));
  return stream;
}

Buffer CudaSession::allocate(int64_t bytes, const char* what) const {
  OrtAllocator* allocator = allocator_.get();
  return allocated(allocator, bytes, what, [&] { return allocator->Alloc(allocator, static_cast<size_t>(bytes)); });
}

Buffer CudaSession::allocate(OrtKernelContext* context, int64_t bytes, const char* what) const {
  // Where streams run side by side, ONNX Runtime must know which one uses the memory: it is given back before the work
  // is done, and only work of the same stream may have it then. The default stream has no such neighbours (nor has it
  // an object that the scratch buffer could be asked of, on the host).
  if (stream(context) == nullptr) return allocate(bytes, what);
  OrtAllocator* allocator = allocator_.get();
  return allocated(allocator, bytes, what, [&] {
    void* data = nullptr;
    check(api_,
          api_->KernelContext_GetScratchBuffer(context, allocator->Info(allocator), static_cast<size_t>(bytes), &data));
    return data;
  });
}

void CudaSession::upload(const Tensor& tensor, const Buffer& memory, void* stream) const {
  EdgeconvStatus status = {};
  const cudaError_t error = cudaMemcpyAsync(memory.get(), tensor.data, tensor_bytes(tensor), cudaMemcpyHostToDevice,
                                            static_cast<cudaStream_t>(stream));
  check(cuda_status(error, "A copy to the device", &status), status);
}

Tensor CudaSession::device_constant(const OrtKernelInfo* info, size_t index, Buffer* memory) const {
  int constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  Tensor tensor = read_tensor(api_, constant != 0 ? value : nullptr);
  if (tensor.data == nullptr || tensor.size() == 0 || !is_on_host(api_, value)) return tensor;
  *memory = allocate(static_cast<int64_t>(tensor_bytes(tensor)), "a constant");
  upload(tensor, *memory, nullptr);
  tensor.data = memory->get();
  return tensor;
}

void CudaSession::finish() const {
  EdgeconvStatus status = {};
  check(cuda_status(cudaStreamSynchronize(nullptr), "Packing the filters", &status), status);
}

size_t tensor_bytes(const Tensor& tensor) { return static_cast<size_t>(tensor.size()) * element_bytes(tensor.type); }

void check_alignment(const Tensor& tensor, const char* name) {
  if (reinterpret_cast<uintptr_t>(tensor.data) % kAlignment == 0 || tensor.size() == 0) return;
  throw Error{ORT_INVALID_ARGUMENT, std::string(name) + ", with shape " + to_text(tensor.dims) +
                                        ", lies at an address that is not a multiple of 16 bytes: bind memory that is"};
}

}  // namespace edgeconv
