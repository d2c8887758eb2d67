// What lanes of a warp do together. Each lane brings an operand; the last one to arrive computes all results.
#ifndef EDGECONV_COMMON_SIMT_COLLECTIVE_H_
#define EDGECONV_COMMON_SIMT_COLLECTIVE_H_

#include <cstdint>

#include "common/simt/place.h"

namespace simt {

constexpr uint32_t kFullMask = 0xffffffffu;

// The operands and results of the lanes that have met.
struct Lanes {
  uint32_t met;
  const void* in[32];
  void* out[32];

  bool has(int lane) const { return met >> lane & 1; }
  template <typename In>
  const In& operand(int lane) const {
    return *static_cast<const In*>(in[lane]);
  }
  template <typename Out>
  Out& result(int lane) const {
    return *static_cast<Out*>(out[lane]);
  }
};

struct Operation {
  const char* name;
  bool full;  // all 32 lanes must be there (mma, ldmatrix: `.sync.aligned`)
  void (*compute)(const Lanes& lanes);
};

// Meets the other lanes of `mask`.
void meet(const Operation& operation, uint32_t mask, const void* in, void* out, Where where);

// Ends the kernel with an error that names the kernel, the block and the thread.
[[noreturn]] void fail(cudaError_t code, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_COLLECTIVE_H_
