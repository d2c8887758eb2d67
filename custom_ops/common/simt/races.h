// Looks for races in shared memory: two threads touch a byte, one of them writes, and no barrier lies between.
#ifndef EDGECONV_COMMON_SIMT_RACES_H_
#define EDGECONV_COMMON_SIMT_RACES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

enum class Access { kRead, kWrite, kAtomic };

class Races {
 public:
  Races();

  void start_block() { first_epoch_ = ++epoch_; }
  // Everything before a barrier is ordered before everything after it.
  void barrier() { ++epoch_; }

  // Records that the current thread accesses bytes of shared memory; `code` is where, null if unknown. Fails on a race.
  void access(size_t offset, size_t bytes, Access kind, const void* code);
  // Between these an access by anyone is an error: a cp.async writes there.
  void pend(size_t offset, size_t bytes);
  void settle(size_t offset, size_t bytes);

 private:
  struct Stamp {
    uint32_t epoch, warp_epoch;
    int16_t thread;
    bool atomic;
  };
  // The latest writer, and the latest two threads that read: at least one of them is not the thread that writes next.
  struct Byte {
    Stamp writer, reader, other_reader;
    uint32_t pending;  // the block in which a cp.async to it has begun, by its first epoch
  };
  bool ordered(const Stamp& before) const;
  [[noreturn]] void report(size_t offset, const Stamp& before, const char* did, Access kind, const void* code) const;

  std::vector<Byte> bytes_;
  uint32_t epoch_ = 0, first_epoch_ = 0;  // of the block
};

// Whether the kernels are instrumented.
bool finds_races();

// An access that the compiler does not instrument, because it is made here on behalf of a kernel.
void note_access(const void* address, size_t bytes, Access kind, const void* code = nullptr);

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_RACES_H_
