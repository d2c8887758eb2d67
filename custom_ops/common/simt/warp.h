// Barriers and warp functions of CUDA C++: __syncthreads and kin, __syncwarp, shuffles, votes, reductions, matches.
//
// `where` is never given: it is the line of the call, for messages, and to tell one call from another.
#ifndef EDGECONV_COMMON_SIMT_WARP_H_
#define EDGECONV_COMMON_SIMT_WARP_H_

#include <cuda_fp16.h>

#include <cstdint>

#include "common/simt/collective.h"

namespace simt {

// Returns the sum of `value` over the block.
int block_barrier(const char* name, int value, Where where);

// The number of threads in the block.
int block_threads();

template <typename Value>
struct Shuffled {
  Value value;
  int source, width;
};

[[noreturn]] void fail_shuffle(int lane, int source, uint32_t met);

// Each lane gets the value of lane `source`, or keeps its own if that is outside its segment of `width` lanes.
template <typename Value>
void compute_shuffle(const Lanes& lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!lanes.has(lane)) continue;
    const Shuffled<Value>& own = lanes.operand<Shuffled<Value>>(lane);
    const int segment = lane & ~(own.width - 1);
    const bool inside = own.source >= segment && own.source < segment + own.width;
    const int source = inside ? own.source : lane;
    if (!lanes.has(source)) fail_shuffle(lane, source, lanes.met);
    lanes.result<Value>(lane) = lanes.operand<Shuffled<Value>>(source).value;
  }
}

template <typename Value>
static constexpr Operation kShuffle = {"__shfl_sync", false, compute_shuffle<Value>};

int checked_width(int width);
int lane_number();

template <typename Value>
Value shuffle(uint32_t mask, Value value, int source, int width, Where where) {
  const Shuffled<Value> operand = {value, source, checked_width(width)};
  Value result;
  meet(kShuffle<Value>, mask, &operand, &result, where);
  return result;
}

uint32_t ballot(uint32_t mask, bool predicate, Where where);

enum class Reduction { kAdd, kMin, kMax, kAnd, kOr, kXor };
uint32_t reduce_unsigned(Reduction reduction, uint32_t mask, uint32_t value, Where where);
int32_t reduce_signed(Reduction reduction, uint32_t mask, int32_t value, Where where);

}  // namespace simt

inline void __syncthreads(simt::Where where = simt::Where::here()) { simt::block_barrier("__syncthreads", 0, where); }
inline int __syncthreads_count(int predicate, simt::Where where = simt::Where::here()) {
  return simt::block_barrier("__syncthreads_count", predicate != 0, where);
}
inline int __syncthreads_or(int predicate, simt::Where where = simt::Where::here()) {
  return simt::block_barrier("__syncthreads_or", predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, simt::Where where = simt::Where::here()) {
  return simt::block_barrier("__syncthreads_and", predicate != 0, where) == simt::block_threads();
}

void __syncwarp(unsigned mask = simt::kFullMask, simt::Where where = simt::Where::here());

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int source, int width = 32, simt::Where where = simt::Where::here()) {
  const int segment = simt::lane_number() & ~(width - 1);
  return simt::shuffle(mask, value, segment + (source & (width - 1)), width, where);
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits, int width = 32, simt::Where where = simt::Where::here()) {
  return simt::shuffle(mask, value, simt::lane_number() ^ bits, width, where);
}
template <typename Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, int width = 32,
                     simt::Where where = simt::Where::here()) {
  return simt::shuffle(mask, value, simt::lane_number() - static_cast<int>(delta), width, where);
}
template <typename Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = 32,
                       simt::Where where = simt::Where::here()) {
  return simt::shuffle(mask, value, simt::lane_number() + static_cast<int>(delta), width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Where where = simt::Where::here()) {
  return simt::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, simt::Where where = simt::Where::here()) {
  return simt::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, simt::Where where = simt::Where::here()) {
  return simt::ballot(mask, predicate == 0, where) == 0;
}

#define EDGECONV_SIMT_REDUCTION(name, kind)                                                      \
  inline unsigned name(unsigned mask, unsigned value, simt::Where where = simt::Where::here()) { \
    return simt::reduce_unsigned(simt::Reduction::kind, mask, value, where);                     \
  }
#define EDGECONV_SIMT_SIGNED_REDUCTION(name, kind)                                     \
  EDGECONV_SIMT_REDUCTION(name, kind)                                                  \
  inline int name(unsigned mask, int value, simt::Where where = simt::Where::here()) { \
    return simt::reduce_signed(simt::Reduction::kind, mask, value, where);             \
  }
EDGECONV_SIMT_SIGNED_REDUCTION(__reduce_add_sync, kAdd)
EDGECONV_SIMT_SIGNED_REDUCTION(__reduce_min_sync, kMin)
EDGECONV_SIMT_SIGNED_REDUCTION(__reduce_max_sync, kMax)
EDGECONV_SIMT_REDUCTION(__reduce_and_sync, kAnd)
EDGECONV_SIMT_REDUCTION(__reduce_or_sync, kOr)
EDGECONV_SIMT_REDUCTION(__reduce_xor_sync, kXor)
#undef EDGECONV_SIMT_SIGNED_REDUCTION
#undef EDGECONV_SIMT_REDUCTION

#endif  // EDGECONV_COMMON_SIMT_WARP_H_
