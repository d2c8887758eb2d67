// What the glue of every operator does alike: optional inputs, tasks on ONNX Runtime's threads with scratch from its
// allocator, and the callbacks of OrtCustomOp that say the same everywhere.
#ifndef EDGECONV_COMMON_ORT_KERNEL_H_
#define EDGECONV_COMMON_ORT_KERNEL_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "common/ort_api.h"

namespace edgeconv {

// Input `index`, without data if the node does not have it.
inline Tensor read_input(const OrtApi* api, OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api, api->KernelContext_GetInputCount(context, &count));
  const OrtValue* value = nullptr;
  if (index < count) check(api, api->KernelContext_GetInput(context, index, &value));
  return read_tensor(api, value);
}

// Input `index` if it is an initialiser, else without data.
inline Tensor read_constant(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  int constant = 0;
  const OrtValue* value = nullptr;
  check(api, api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  return read_tensor(api, constant != 0 ? value : nullptr);
}

// Calls run(first, last, scratch) for all of `tasks`, `tasks_per_call` of them at a time, on the runtime's threads.
template <typename Run>
void run_tasks(const OrtApi* api, OrtKernelContext* context, OrtAllocator* allocator, int64_t tasks,
               int64_t tasks_per_call, size_t scratch_bytes, const Run& run) {
  struct Call {
    const Run& run;
    OrtAllocator* allocator;
    int64_t tasks, tasks_per_call;
    size_t scratch_bytes;
    std::atomic<bool> failed{false};
  } call{run, allocator, tasks, tasks_per_call, scratch_bytes};
  // Consecutive tasks share one thread's scratch.
  const auto run_call = [](void* data, size_t index) noexcept {
    Call& now = *static_cast<Call*>(data);
    try {
      const Buffer scratch(now.allocator, now.scratch_bytes);
      const int64_t first = static_cast<int64_t>(index) * now.tasks_per_call;
      now.run(first, std::min(now.tasks, first + now.tasks_per_call), scratch.get());
    } catch (...) {
      now.failed = true;
    }
  };
  const size_t calls = static_cast<size_t>((tasks + tasks_per_call - 1) / tasks_per_call);
  if (calls == 1) {
    run_call(&call, 0);
  } else if (calls > 1) {
    // As many batches as calls: a thread takes the next when it is free, not its share at once.
    check(api, api->KernelContext_ParallelFor(context, run_call, calls, calls, &call));
  }
  if (call.failed) throw std::bad_alloc();
}

// Input `index`: one value an output channel, or absent.
inline Tensor read_bias(const OrtApi* api, OrtKernelContext* context, size_t index, int64_t channels) {
  Tensor bias = read_input(api, context, index);
  if (bias.data != nullptr && (bias.dims.size() != 1 || bias.dims[0] != channels)) {
    throw Error{ORT_INVALID_ARGUMENT,
                "B has shape " + to_text(bias.dims) + ": expected (" + std::to_string(channels) + ")"};
  }
  return bias;
}

// Whether a convolution-like operator has nothing to compute.
inline bool is_empty(const EdgeconvConvShape& shape) {
  return shape.batch == 0 || shape.out_channels == 0 || shape.out_height == 0 || shape.out_width == 0;
}

// The memory of the output of a convolution-like operator.
inline void* make_output(const OrtApi* api, OrtKernelContext* context, const EdgeconvConvShape& shape) {
  const int64_t dims[4] = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  OrtValue* output = nullptr;
  void* data = nullptr;
  check(api, api->KernelContext_GetOutput(context, 0, dims, 4, &output));
  check(api, api->GetTensorMutableData(output, &data));
  return data;
}

inline Owner<OrtAllocator> kernel_allocator(const OrtApi* api, const OrtKernelInfo* info) {
  OrtAllocator* allocator = nullptr;
  check(api, api->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  return {allocator, {api->ReleaseAllocator}};
}

// Where error messages begin: operator and node.
inline std::string error_prefix(const OrtApi* api, const OrtKernelInfo* info, const char* operator_name) {
  return std::string(operator_name) + " '" + node_name(api, info) + "': ";
}

// Callbacks of OrtCustomOp. An Op has a `definition` with a `name`; a Kernel is made of an Op and an OrtKernelInfo and
// has api(), prefix() and compute().
template <typename Kernel, typename Op>
OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                                      void** kernel) {
  *kernel = nullptr;
  const Op& self = *static_cast<const Op*>(op);
  return guarded(api, "", [&] {
    std::string prefix = std::string(self.definition->name) + ": ";
    try {
      prefix = error_prefix(api, info, self.definition->name);
      *kernel = new Kernel(self, info);
    } catch (const Error& error) {
      throw Error{error.code, prefix + error.message};
    }
  });
}

template <typename Kernel>
OrtStatus* ORT_API_CALL compute_kernel(void* kernel, OrtKernelContext* context) {
  auto* typed = static_cast<Kernel*>(kernel);
  return guarded(typed->api(), typed->prefix(), [&] { typed->compute(context); });
}

// Fills in what is the same for all operators of this library: version 1, on the CPU, one output, no variadic inputs,
// and the callbacks above. Left to the operator: its name, types, optional inputs and shape inference.
template <typename Kernel, typename Op>
void begin_custom_op(const Runtime& runtime, Op* op) {
  std::memset(static_cast<OrtCustomOp*>(op), 0, sizeof(OrtCustomOp));
  op->CreateKernelV2 = create_kernel<Kernel, Op>;
  op->KernelComputeV2 = compute_kernel<Kernel>;
  op->KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op->version = runtime.version;
  op->GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op->GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_KERNEL_H_
