#include "common/simt/shared_memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

namespace {

// Before and after each array: of 16 bytes mod 32, so that arrays lie on 16 bytes and not, by luck, on 32 or more.
constexpr size_t kAlignment = 16, kGuardBytes = 112, kBlockAlignment = 128;
constexpr int kGuard = 0xa5;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void set_access(const char* from, size_t bytes, bool allowed) {
#ifdef __SANITIZE_ADDRESS__
  if (allowed) {
    __asan_unpoison_memory_region(from, bytes);
  } else {
    __asan_poison_memory_region(from, bytes);
  }
#else
  static_cast<void>(from), static_cast<void>(bytes), static_cast<void>(allowed);
#endif
}

bool intact(const char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (static_cast<unsigned char>(from[i]) != kGuard) return false;
  }
  return true;
}

}  // namespace

SharedMemory::SharedMemory() : memory_(static_cast<char*>(std::aligned_alloc(kBlockAlignment, kCapacity))) {
  if (memory_ == nullptr) throw std::bad_alloc();
}

SharedMemory::~SharedMemory() {
  set_access(memory_, kCapacity, true);
  std::free(memory_);
}

void SharedMemory::start(size_t dynamic_bytes) {
  set_access(memory_, kCapacity, true);
  std::memset(memory_, kGuard, kGuardBytes);
  set_access(memory_, kGuardBytes, false);
  used_ = kGuardBytes;
  static_bytes_ = 0;
  count_ = 0;
  place(nullptr, "dynamic shared memory", dynamic_bytes);
}

char* SharedMemory::place(const void* key, const char* name, size_t bytes) {
  const size_t room = round_up(bytes);
  if (count_ == kMostArrays || room + kGuardBytes > kCapacity - used_) return nullptr;
  char* const address = memory_ + used_;
  set_access(address, room + kGuardBytes, true);
  std::memset(address, kPoison, bytes);
  std::memset(address + bytes, kGuard, room - bytes + kGuardBytes);
  set_access(address + bytes, room - bytes + kGuardBytes, false);
  arrays_[count_++] = {key, name, address, bytes};
  used_ += room + kGuardBytes;
  return address;
}

void* SharedMemory::static_array(const void* key, const char* name, size_t bytes) {
  for (int i = 1; i < count_; ++i) {
    if (arrays_[i].key == key) return arrays_[i].address;
  }
  static_bytes_ += bytes;
  return place(key, name, bytes);
}

bool SharedMemory::holds(const void* address, size_t bytes) const {
  const char* const from = static_cast<const char*>(address);
  for (int i = 0; i < count_; ++i) {
    const Array& array = arrays_[i];
    if (from >= array.address && from + bytes <= array.address + array.bytes) return true;
  }
  return false;
}

void SharedMemory::describe(size_t offset, char* text, size_t size) const {
  const char* const address = memory_ + offset;
  for (int i = 0; i < count_; ++i) {
    const Array& array = arrays_[i];
    if (address < array.address || address >= array.address + array.bytes) continue;
    std::snprintf(text, size, "%s, byte %td", array.name, address - array.address);
    return;
  }
  std::snprintf(text, size, "shared memory outside every array");
}

const char* SharedMemory::overrun() const {
  set_access(memory_, kCapacity, true);  // until the next block
  for (int i = 0; i < count_; ++i) {
    const char* const end = arrays_[i].address + arrays_[i].bytes;
    const size_t after = round_up(arrays_[i].bytes) - arrays_[i].bytes + kGuardBytes;
    if (!intact(arrays_[i].address - kGuardBytes, kGuardBytes) || !intact(end, after)) return arrays_[i].name;
  }
  return nullptr;
}

}  // namespace simt
