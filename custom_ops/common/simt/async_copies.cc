#include "common/simt/async_copies.h"

#include <cstring>

#include "common/simt/async_copy.h"
#include "common/simt/block.h"

namespace simt {

void AsyncCopies::begin(void* shared, const void* global, int bytes, int valid_bytes) {
  Copy copy = {static_cast<char*>(shared), bytes, group_, {}};
  std::memcpy(copy.data, global, static_cast<size_t>(valid_bytes));
  std::memset(shared, kPoison, static_cast<size_t>(bytes));
  copies_.push_back(copy);
}

void AsyncCopies::wait(int64_t pending) {
  while (!copies_.empty() && copies_.front().group < group_ - pending) {
    const Copy& copy = copies_.front();
    const size_t bytes = static_cast<size_t>(copy.bytes);
    std::memcpy(copy.to, copy.data, bytes);
    if (Races* const races = runner->races()) {
      const size_t offset = runner->shared().offset(copy.to);
      races->settle(offset, bytes);
      races->access(offset, bytes, Access::kWrite, nullptr);
    }
    copies_.pop_front();
  }
}

void cp_async(void* shared, const void* global, int bytes, int valid_bytes) {
  const auto misaligned = [bytes](const void* address) { return reinterpret_cast<uintptr_t>(address) % bytes != 0; };
  if (valid_bytes < 0 || valid_bytes > bytes) {
    fail(cudaErrorIllegalInstruction, "cp.async of %d bytes with %d valid ones", bytes, valid_bytes);
  }
  if (!runner->shared().holds(shared, static_cast<size_t>(bytes))) {
    fail(cudaErrorIllegalAddress, "cp.async writes %d bytes that are not all in one array of shared memory", bytes);
  }
  if (misaligned(shared) || misaligned(global)) {
    fail(cudaErrorMisalignedAddress, "cp.async of %d bytes: the address in %s memory is not a multiple of %d", bytes,
         misaligned(shared) ? "shared" : "global", bytes);
  }
  if (valid_bytes > 0 && runner->shared().holds(global, 1)) {
    fail(cudaErrorIllegalAddress, "cp.async reads from shared memory");
  }
  if (Races* const races = runner->races()) {
    const size_t offset = runner->shared().offset(shared);
    races->access(offset, static_cast<size_t>(bytes), Access::kWrite, nullptr);
    races->pend(offset, static_cast<size_t>(bytes));
  }
  runner->current().copies.begin(shared, global, bytes, valid_bytes);
}

void cp_async_commit_group() { runner->current().copies.commit(); }

void cp_async_wait_group(int pending) { runner->current().copies.wait(pending); }

}  // namespace simt
