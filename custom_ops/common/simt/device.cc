#include "common/simt/device.h"

#include "common/simt/block.h"

namespace simt {

void* dynamic_shared() { return runner->shared().dynamic(); }

void* static_shared(const void* key, const char* name, size_t bytes) {
  SharedMemory& shared = runner->shared();
  void* const array = shared.static_array(key, name, bytes);
  const size_t total = shared.static_bytes() + shared.dynamic_bytes();
  const size_t most = static_cast<size_t>(runner->launch().settings.device->shared_bytes_per_block);
  if (array == nullptr || total > most) {
    fail(cudaErrorInvalidValue, "%zu bytes of shared memory with %s, of %zu that a block can have", total, name, most);
  }
  if (shared.static_bytes() > static_cast<size_t>(kDefaultSharedBytes)) {
    fail(cudaErrorInvalidValue, "%zu bytes of static shared memory with %s, of %d that a block can have",
         shared.static_bytes(), name, kDefaultSharedBytes);
  }
  return array;
}

}  // namespace simt
