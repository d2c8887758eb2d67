#include "common/simt/warp.h"

#include <algorithm>

#include "common/simt/block.h"

namespace simt {

namespace {

void compute_ballot(const Lanes& lanes) {
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes.has(lane) && lanes.operand<bool>(lane)) votes |= 1u << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes.has(lane)) lanes.result<uint32_t>(lane) = votes;
  }
}

template <typename Value>
Value combine(Reduction reduction, Value a, Value b) {
  switch (reduction) {
    case Reduction::kAdd: return static_cast<Value>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
    case Reduction::kMin: return std::min(a, b);
    case Reduction::kMax: return std::max(a, b);
    case Reduction::kAnd: return a & b;
    case Reduction::kOr: return a | b;
    case Reduction::kXor: return a ^ b;
  }
  return a;
}

template <Reduction kReduction, typename Value>
void compute_reduction(const Lanes& lanes) {
  Value result = {};
  bool first = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!lanes.has(lane)) continue;
    const Value value = lanes.operand<Value>(lane);
    result = first ? value : combine(kReduction, result, value);
    first = false;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (lanes.has(lane)) lanes.result<Value>(lane) = result;
  }
}

// In the order of Reduction.
template <typename Value>
constexpr Operation kReductions[] = {
    {"__reduce_add_sync", false, compute_reduction<Reduction::kAdd, Value>},
    {"__reduce_min_sync", false, compute_reduction<Reduction::kMin, Value>},
    {"__reduce_max_sync", false, compute_reduction<Reduction::kMax, Value>},
    {"__reduce_and_sync", false, compute_reduction<Reduction::kAnd, Value>},
    {"__reduce_or_sync", false, compute_reduction<Reduction::kOr, Value>},
    {"__reduce_xor_sync", false, compute_reduction<Reduction::kXor, Value>},
};

template <typename Value>
Value reduce(Reduction reduction, uint32_t mask, Value value, Where where) {
  Value result;
  meet(kReductions<Value>[static_cast<int>(reduction)], mask, &value, &result, where);
  return result;
}

constexpr Operation kBallot = {"__ballot_sync", false, compute_ballot};
constexpr Operation kSyncwarp = {"__syncwarp", false, nullptr};

}  // namespace

int block_barrier(const char* name, int value, Where where) { return runner->barrier(name, value, where); }

int block_threads() { return static_cast<int>(blockDim.x * blockDim.y * blockDim.z); }

int lane_number() { return runner->current().lane; }

int checked_width(int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail(cudaErrorIllegalInstruction, "a shuffle's width is %d: a power of two up to 32 is possible", width);
  }
  return width;
}

void fail_shuffle(int lane, int source, uint32_t met) {
  fail(cudaErrorLaunchFailure, "a shuffle's lane %d reads lane %d, which takes no part: only 0x%08x do", lane, source,
       met);
}

uint32_t ballot(uint32_t mask, bool predicate, Where where) {
  uint32_t votes;
  meet(kBallot, mask, &predicate, &votes, where);
  return votes;
}

uint32_t reduce_unsigned(Reduction reduction, uint32_t mask, uint32_t value, Where where) {
  return reduce(reduction, mask, value, where);
}

int32_t reduce_signed(Reduction reduction, uint32_t mask, int32_t value, Where where) {
  return reduce(reduction, mask, value, where);
}

}  // namespace simt

void __syncwarp(unsigned mask, simt::Where where) { simt::meet(simt::kSyncwarp, mask, nullptr, nullptr, where); }
