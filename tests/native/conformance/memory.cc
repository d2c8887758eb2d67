// The allocator that an execution context offers, with guards around each block.
#include <cstdlib>
#include <cstring>

#include "conformance.h"

namespace conformance {
namespace {

constexpr size_t kAlignment = 256;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuard = 0;  // the sanitizer sees more
#else
constexpr size_t kGuard = 4096;
#endif
constexpr unsigned char kGuardByte = 0xA5, kFill = 0xFF;  // as floats: not a number

bool intact(const char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (static_cast<unsigned char>(from[i]) != kGuardByte) return false;
  }
  return true;
}

}  // namespace

Allocator::~Allocator() {
  for (const auto& [block, size] : blocks_) std::free(block - kGuard);
}

void* Allocator::allocateAsync(uint64_t size, uint64_t alignment, nvinfer1::AllocatorFlags, cudaStream_t) noexcept {
  if (size == 0 || alignment > kAlignment) misused = true;
  if (bytes() + size > limit) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size + 2 * kGuard) != 0) return nullptr;
  char* const block = static_cast<char*>(memory) + kGuard;
  std::memset(block - kGuard, kGuardByte, kGuard);
  std::memset(block, kFill, size);
  std::memset(block + size, kGuardByte, kGuard);
  blocks_[block] = size;
  return block;
}

bool Allocator::deallocateAsync(void* memory, cudaStream_t) noexcept {
  const auto found = blocks_.find(static_cast<char*>(memory));
  if (found == blocks_.end()) return misused = true, false;
  std::free(found->first - kGuard);
  blocks_.erase(found);
  return true;
}

void Allocator::check() const {
  require(!misused, "the allocator was misused");
  for (const auto& [block, size] : blocks_) {
    require(intact(block - kGuard, kGuard), "something wrote before a block of device memory");
    require(intact(block + size, kGuard), "something wrote beyond a block of device memory");
  }
}

size_t Allocator::bytes() const {
  size_t sum = 0;
  for (const auto& [block, size] : blocks_) sum += size;
  return sum;
}

}  // namespace conformance
