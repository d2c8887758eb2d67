// Tasks on ONNX Runtime's threads, where neighbouring tasks share what a thread has in its scratch: a thread keeps one
// scratch for all the tasks of a call that it runs.
#ifndef EDGECONV_COMMON_ORT_STRANDS_H_
#define EDGECONV_COMMON_ORT_STRANDS_H_

#include <atomic>
#include <mutex>
#include <vector>

#include "common/ort_kernel.h"

namespace edgeconv {

// The scratches of one call, by thread.
class Strands {
 public:
  // `begin` prepares a new scratch.
  Strands(OrtAllocator* allocator, size_t bytes, void (*begin)(void*))
      : allocator_(allocator), bytes_(bytes), begin_(begin), call_(next_call()) {}

  // The calling thread's.
  void* scratch() {
    thread_local Place place;
    if (place.call != call_) {
      Buffer buffer(allocator_, bytes_);
      begin_(buffer.get());
      place = {call_, buffer.get()};
      const std::lock_guard<std::mutex> lock(mutex_);
      buffers_.push_back(std::move(buffer));
    }
    return place.scratch;
  }

 private:
  struct Place {
    uint64_t call = 0;
    void* scratch = nullptr;
  };
  static uint64_t next_call() {
    static std::atomic<uint64_t> calls{0};
    return ++calls;
  }
  OrtAllocator* allocator_;
  size_t bytes_;
  void (*begin_)(void*);
  uint64_t call_;
  std::mutex mutex_;
  std::vector<Buffer> buffers_;
};

// Calls run(task, scratch) for all of `tasks`.
template <typename Run>
void run_strands(const OrtApi* api, OrtKernelContext* context, Strands& strands, int64_t tasks, const Run& run) {
  struct Call {
    const Run& run;
    Strands& strands;
    std::atomic<bool> failed{false};
  } call{run, strands};
  const auto run_one = [](void* data, size_t index) noexcept {
    Call& now = *static_cast<Call*>(data);
    try {
      now.run(static_cast<int64_t>(index), now.strands.scratch());
    } catch (...) {
      now.failed = true;
    }
  };
  const size_t count = static_cast<size_t>(tasks);
  if (count == 1) {
    run_one(&call, 0);
  } else if (count > 1) {
    check(api, api->KernelContext_ParallelFor(context, run_one, count, count, &call));
  }
  if (call.failed) throw std::bad_alloc();
}

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_STRANDS_H_
