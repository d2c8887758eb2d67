// What the glue of every operator does alike: optional inputs, tasks on ONNX Runtime's threads with scratch from its
// allocator, and the callbacks of OrtCustomOp that say the same everywhere.
#ifndef EDGECONV_COMMON_ORT_KERNEL_H_
#define EDGECONV_COMMON_ORT_KERNEL_H_

#include <algorithm>
#include <atomic>
#include <cstring>

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
    check(api, api->KernelContext_ParallelFor(context, run_call, calls, 0, &call));
  }
  if (call.failed) throw std::bad_alloc();
}

// Fills in what is the same for all operators of this library: version 1, on the CPU, one output, no variadic inputs.
// Left to the operator: its name, types, optional inputs, kernel and shape inference.
inline void begin_custom_op(const Runtime& runtime, OrtCustomOp* op) {
  std::memset(op, 0, sizeof(*op));
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
