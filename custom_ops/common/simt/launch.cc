#include "common/simt/launch.h"

#include <atomic>
#include <map>
#include <memory>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "common/simt/block.h"

namespace simt {

namespace {

// What the next cudaGetLastError returns, and what edgeconv_simt_last_error does.
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_message;

// What cudaFuncSetAttribute has allowed.
struct DynamicLimits {
  std::mutex mutex;
  std::map<const void*, int64_t> bytes;
};

DynamicLimits& dynamic_limits() {
  static DynamicLimits instance;
  return instance;
}

int64_t dynamic_limit(const void* function) {
  DynamicLimits& limits = dynamic_limits();
  const std::lock_guard<std::mutex> lock(limits.mutex);
  const auto found = limits.bytes.find(function);
  return found != limits.bytes.end() ? found->second : kDefaultSharedBytes;
}

// Runners that no launch uses: their stacks are kept.
class Runners {
 public:
  std::unique_ptr<BlockRunner> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<BlockRunner>();
    std::unique_ptr<BlockRunner> runner = std::move(idle_.back());
    idle_.pop_back();
    return runner;
  }
  void give_back(std::unique_ptr<BlockRunner> runner) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(runner));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<BlockRunner>> idle_;
};

Runners& runners() {
  static Runners instance;
  return instance;
}

// The kernel is the first argument of the launch, which ends at a comma outside brackets. In source text a `<` may be
// less-than, but not before that comma.
std::string kernel_name(const char* text) {
  int depth = 0;
  const char* end = text;
  for (; *end != '\0' && (*end != ',' || depth > 0); ++end) {
    if (*end == '(' || *end == '<') ++depth;
    if (*end == ')' || *end == '>') --depth;
  }
  return std::string(text, end);
}

std::string size_text(const dim3& size) {
  return std::to_string(size.x) + " x " + std::to_string(size.y) + " x " + std::to_string(size.z);
}

cudaError_t refuse(const Launch& launch, cudaError_t code, const std::string& message) {
  return set_last_error(code, "kernel " + launch.name + ": " + message);
}

cudaError_t check(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  const int64_t threads = int64_t(block.x) * block.y * block.z;
  if (threads < 1 || threads > kMostThreads || block.z > static_cast<unsigned>(kMostThreadsZ)) {
    return refuse(launch, cudaErrorInvalidConfiguration,
                  "blocks of " + size_text(block) + " threads: 1 to 1024 are possible, and 64 in z");
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > kMostBlocksX || grid.y > kMostBlocksYZ ||
      grid.z > kMostBlocksYZ) {
    return refuse(launch, cudaErrorInvalidConfiguration,
                  "a grid of " + size_text(grid) +
                      " blocks: each must be at least 1, x at most 2147483647, y and z at most 65535");
  }
  const int64_t limit = dynamic_limit(launch.call.function);
  if (static_cast<int64_t>(launch.shared_bytes) > limit) {
    return refuse(launch, cudaErrorInvalidValue,
                  std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory, but " +
                      std::to_string(limit) + " are allowed: call allow_dynamic_shared() for more than 49152");
  }
  return cudaSuccess;
}

// Takes blocks until there are no more.
void run_blocks(Launch* launch, std::atomic<uint64_t>* next, uint64_t count, uint64_t step) {
  std::unique_ptr<BlockRunner> runner = runners().take();
  for (uint64_t turn = (*next)++; turn < count; turn = (*next)++) {
    // A step that has no divisor in common with the count visits each block once.
    const uint64_t number = static_cast<uint64_t>(static_cast<unsigned __int128>(turn) * step % count);
    const unsigned x = launch->grid.x, y = launch->grid.y;
    const uint3 index = {static_cast<unsigned>(number % x), static_cast<unsigned>(number / x % y),
                         static_cast<unsigned>(number / x / y)};
    if (launch->failed() || !runner->run(launch, index, number)) break;
  }
  runners().give_back(std::move(runner));
}

}  // namespace

void Launch::record(cudaError_t code, const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (error != cudaSuccess) return;
  error = code;
  message = text;
}

bool Launch::failed() {
  const std::lock_guard<std::mutex> lock(mutex);
  return error != cudaSuccess;
}

cudaError_t launch(const Call& call, dim3 grid, dim3 block, size_t shared_bytes) {
  if (runner != nullptr) fail(cudaErrorNotSupported, "launches a kernel from a kernel");
  Launch launch = {};
  launch.call = call;
  launch.settings = settings();
  launch.name = kernel_name(call.text);
  launch.grid = grid;
  launch.block = block;
  launch.shared_bytes = shared_bytes;
  last_message.clear();
  const cudaError_t refused = check(launch);
  if (refused != cudaSuccess) return refused;

  const uint64_t count = uint64_t(grid.x) * grid.y * grid.z;
  uint64_t step = 1;
  if (launch.settings.seed != 0) {
    step = mix(launch.settings.seed) % count;
    while (std::gcd(step, count) != 1) step = (step + 1) % count;
    if (step == 0) step = 1;
  }
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> helpers;
  const uint64_t most = std::min(count, static_cast<uint64_t>(launch.settings.threads));
  try {
    for (uint64_t i = 1; i < most; ++i) helpers.emplace_back(run_blocks, &launch, &next, count, step);
  } catch (const std::system_error&) {
    // Fewer OS threads do the same.
  }
  run_blocks(&launch, &next, count, step);
  for (std::thread& helper : helpers) helper.join();
  return launch.error == cudaSuccess ? cudaSuccess : set_last_error(launch.error, launch.message);
}

cudaError_t set_dynamic_limit(const void* function, int64_t bytes) {
  const int64_t most = settings().device->shared_bytes_per_block;
  if (bytes < 0 || bytes > most) {
    return set_last_error(cudaErrorInvalidValue, std::to_string(bytes) +
                                                     " bytes of dynamic shared memory: " + settings().device->name +
                                                     " has " + std::to_string(most) + " for a block");
  }
  DynamicLimits& limits = dynamic_limits();
  const std::lock_guard<std::mutex> lock(limits.mutex);
  limits.bytes[function] = bytes;
  return cudaSuccess;
}

cudaError_t set_last_error(cudaError_t code, const std::string& message) {
  last_error = code;
  last_message = message;
  return code;
}

cudaError_t peek_last_error(bool forget) {
  const cudaError_t code = last_error;
  if (forget) last_error = cudaSuccess;
  return code;
}

}  // namespace simt

const char* edgeconv_simt_last_error(void) { return simt::last_message.c_str(); }
