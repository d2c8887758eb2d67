// What a kernel sees of itself: threadIdx, blockIdx, blockDim, gridDim.
#ifndef EDGECONV_COMMON_SIMT_PLACE_H_
#define EDGECONV_COMMON_SIMT_PLACE_H_

#include <cuda_runtime.h>

namespace simt {

struct BlockPlace {
  uint3 block_index;
  dim3 block_size, grid_size;
};

struct ThreadPlace {
  uint3 thread_index;
  const BlockPlace* block;
};

// Of the CUDA thread that the OS thread runs; null outside kernels. GNU's __thread and this model of it, because
// kernels read it all the time: no initialiser to check for, no call to find it in a shared library.
extern __thread const ThreadPlace* place __attribute__((tls_model("initial-exec")));

// A line of a kernel, for messages. As a default argument it is the caller's line.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Most often the file is the same string.
inline bool operator==(const Where& a, const Where& b) {
  return a.line == b.line && (a.file == b.file || __builtin_strcmp(a.file, b.file) == 0);
}

}  // namespace simt

#define threadIdx (::simt::place->thread_index)
#define blockIdx (::simt::place->block->block_index)
#define blockDim (::simt::place->block->block_size)
#define gridDim (::simt::place->block->grid_size)

#endif  // EDGECONV_COMMON_SIMT_PLACE_H_
