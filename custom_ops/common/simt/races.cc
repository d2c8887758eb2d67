// The race detector, and how it learns of accesses: the kernels' file is compiled with -fsanitize=thread, which makes
// the compiler call a function before each access to memory. Linked without that option, the functions are those below
// instead of the thread sanitizer's, which knows OS threads and not the threads of a block.
#include "common/simt/races.h"

#include <dlfcn.h>

#include <cstdio>

#include "common/simt/block.h"
#include "common/simt/settings.h"

namespace simt {

namespace {

bool instrumented = false;

}  // namespace

Races::Races() : bytes_(SharedMemory::kCapacity) {}

bool finds_races() { return instrumented; }

// Whether the current thread comes after what `before` stands for.
bool Races::ordered(const Stamp& before) const {
  const Thread& self = runner->current();
  if (before.epoch != epoch_ || before.thread == self.number) return true;
  return before.thread / 32 == self.number / 32 && before.warp_epoch < self.warp->epoch;
}

void Races::report(size_t offset, const Stamp& before, const char* did, Access kind, const void* code) const {
  char place[128];
  runner->shared().describe(offset, place, sizeof(place));
  char where[300] = "";
  Dl_info file;
  if (code != nullptr && dladdr(code, &file) != 0) {
    const ptrdiff_t address = static_cast<const char*>(code) - 1 - static_cast<const char*>(file.dli_fbase);
    std::snprintf(where, sizeof(where), " (addr2line -e %s 0x%tx)", file.dli_fname, address);
  }
  fail(cudaErrorLaunchFailure, "race in %s: thread %d %s it, this one (%d) %s it, and nothing orders them%s", place,
       before.thread, did, runner->current().number, kind == Access::kRead ? "reads" : "writes", where);
}

void Races::access(size_t offset, size_t bytes, Access kind, const void* code) {
  const Thread& self = runner->current();
  const Stamp stamp = {epoch_, self.warp->epoch, static_cast<int16_t>(self.number), kind == Access::kAtomic};
  for (size_t i = offset; i < offset + bytes; ++i) {
    Byte& byte = bytes_[i];
    if (byte.pending == first_epoch_) report(i, byte.writer, "has not waited for its cp.async to", kind, code);
    const bool both_atomic = byte.writer.atomic && stamp.atomic;
    if (!both_atomic && !ordered(byte.writer)) report(i, byte.writer, "wrote", kind, code);
    if (kind == Access::kRead) {
      if (byte.reader.thread != stamp.thread) byte.other_reader = byte.reader;
      byte.reader = stamp;
      continue;
    }
    for (const Stamp& reader : {byte.reader, byte.other_reader}) {
      if (!ordered(reader)) report(i, reader, "read", kind, code);
    }
    byte.writer = stamp;
  }
}

void Races::pend(size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes; ++i) bytes_[i].pending = first_epoch_;
}

void Races::settle(size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes; ++i) bytes_[i].pending = 0;
}

void note_access(const void* address, size_t bytes, Access kind, const void* code) {
  if (runner == nullptr || runner->races() == nullptr) return;
  const size_t offset = runner->shared().offset(address);
  if (offset < SharedMemory::kCapacity - bytes) runner->races()->access(offset, bytes, kind, code);
}

}  // namespace simt

int edgeconv_simt_finds_races(void) { return simt::finds_races(); }

// What GCC and Clang call.
extern "C" {

void __tsan_init() { simt::instrumented = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define EDGECONV_SIMT_HOOK(name, bytes, kind) \
  void name(void* address) { simt::note_access(address, bytes, simt::Access::kind, __builtin_return_address(0)); }
#define EDGECONV_SIMT_HOOKS(bytes)                               \
  EDGECONV_SIMT_HOOK(__tsan_read##bytes, bytes, kRead)           \
  EDGECONV_SIMT_HOOK(__tsan_write##bytes, bytes, kWrite)         \
  EDGECONV_SIMT_HOOK(__tsan_unaligned_read##bytes, bytes, kRead) \
  EDGECONV_SIMT_HOOK(__tsan_unaligned_write##bytes, bytes, kWrite)

EDGECONV_SIMT_HOOKS(1)
EDGECONV_SIMT_HOOKS(2)
EDGECONV_SIMT_HOOKS(4)
EDGECONV_SIMT_HOOKS(8)
EDGECONV_SIMT_HOOKS(16)

void __tsan_read_range(void* address, size_t bytes) {
  simt::note_access(address, bytes, simt::Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  simt::note_access(address, bytes, simt::Access::kWrite, __builtin_return_address(0));
}

}  // extern "C"
