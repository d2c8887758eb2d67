// What the glue of every operator does alike on a GPU: ONNX Runtime's CUDA provider brings the stream and the memory,
// launch functions do the work. Nothing waits for the GPU but the creation of a session, so that a CUDA graph can
// capture every run, the first included.
#ifndef EDGECONV_COMMON_ORT_CUDA_H_
#define EDGECONV_COMMON_ORT_CUDA_H_

#include <initializer_list>
#include <utility>

#include "common/cuda_launch.h"
#include "common/ort_kernel.h"

namespace edgeconv {

// Says that an operator runs on CUDAExecutionProvider; call it after begin_custom_op. With runtime.cuda_on_host (in
// host-executed builds only) it takes the CPU's place: the host's memory is then the device's.
void run_on_cuda(const Runtime& runtime, OrtCustomOp* op);

using NamedTensors = std::initializer_list<std::pair<const char*, const Tensor*>>;

// Throws Error unless `code` is EDGECONV_OK, with the tensors' shapes.
void check(int code, const EdgeconvStatus& status, NamedTensors tensors);

// A GPU, as one kernel of a session sees it. Thread-safe.
class CudaSession {
 public:
  // `tf32`: whether products may be computed in TF32.
  CudaSession(const OrtApi* api, const OrtKernelInfo* info, bool tf32);

  const EdgeconvCudaDevice& device() const { return device_; }
  const EdgeconvCudaFormat& format() const { return format_; }  // NCHW

  // The stream of this run: what is launched there is done in order.
  void* stream(OrtKernelContext* context) const;

  // Device memory that lives as long as the session.
  Buffer allocate(int64_t bytes, const char* what) const;
  // Device memory for work on the stream of this run; it may be given back as soon as that work is launched.
  Buffer allocate(OrtKernelContext* context, int64_t bytes, const char* what) const;

  // `tensor`, which lies on the host, in `memory`, which is on the device. The host's copy may change afterwards.
  void upload(const Tensor& tensor, const Buffer& memory, void* stream) const;

  // Input `index` if it is an initialiser, else without data: on the device, where its copy is in `memory` if ONNX
  // Runtime keeps it on the host.
  Tensor device_constant(const OrtKernelInfo* info, size_t index, Buffer* memory) const;

  // Work of a session's creation is launched on the stream nullptr; this waits for it.
  void finish() const;

 private:
  const OrtApi* api_;
  Owner<OrtAllocator> allocator_;
  EdgeconvCudaDevice device_ = {};
  EdgeconvCudaFormat format_ = {};
};

// Bytes of a tensor's elements.
size_t tensor_bytes(const Tensor& tensor);

// Throws Error unless the tensor lies on a multiple of 16 bytes, as kernels take it.
void check_alignment(const Tensor& tensor, const char* name);

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_CUDA_H_
