// The shared memory of one block: static arrays and the dynamic part, with guards between them.
//
// Filled with 0xff, which is NaN in float32 and float16, before each block; guards are looked at after it, and are red
// zones where the address sanitizer is on.
#ifndef EDGECONV_COMMON_SIMT_SHARED_MEMORY_H_
#define EDGECONV_COMMON_SIMT_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace simt {

constexpr int kPoison = 0xff;

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Empties it for the next block, which has this many bytes of dynamic shared memory.
  void start(size_t dynamic_bytes);

  // The array that the declaration `key` stands for; made when the block's first thread comes to it.
  // Null if there is no room.
  void* static_array(const void* key, const char* name, size_t bytes);

  void* dynamic() { return arrays_[0].address; }
  size_t dynamic_bytes() const { return arrays_[0].bytes; }
  size_t static_bytes() const { return static_bytes_; }

  // Whether all of [address, address + bytes) is in one array.
  bool holds(const void* address, size_t bytes) const;

  // From the beginning of all arrays, for the race detector; kCapacity and above if it is not shared memory.
  size_t offset(const void* address) const { return static_cast<size_t>(static_cast<const char*>(address) - memory_); }
  // Writes "NAME[+BYTES]" of what is at an offset.
  void describe(size_t offset, char* text, size_t size) const;

  // The name of an array with writes just outside it; null if there are none.
  const char* overrun() const;

  // More than any GPU has: 227 KiB, then guards.
  static constexpr size_t kCapacity = size_t(256) << 10;

 private:
  struct Array {
    const void* key;
    const char* name;
    char* address;
    size_t bytes;
  };
  static constexpr int kMostArrays = 32;

  char* place(const void* key, const char* name, size_t bytes);

  char* memory_;
  size_t used_ = 0;  // bytes, guards included
  size_t static_bytes_ = 0;
  Array arrays_[kMostArrays] = {};  // the first is the dynamic part
  int count_ = 0;
};

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_SHARED_MEMORY_H_
