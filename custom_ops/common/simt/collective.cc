#include "common/simt/collective.h"

#include <cstdarg>

#include "common/simt/block.h"

namespace simt {

void BlockRunner::collective(const Operation& operation, uint32_t mask, const void* in, void* out, Where where) {
  Thread& self = *current_;
  Warp& warp = *self.warp;
  if (!(mask >> self.lane & 1)) {
    fail(cudaErrorLaunchFailure, "lane %d calls %s (%s:%d) with mask 0x%08x, which it is not in", self.lane,
         operation.name, where.file, where.line, mask);
  }
  if (operation.full && (mask & warp.present) != kFullMask) {
    fail(cudaErrorLaunchFailure, "%s (%s:%d) needs a full warp: of this one, only lanes 0x%08x are there",
         operation.name, where.file, where.line, warp.present);
  }
  const int slot = join_meeting(operation, mask, where);
  Warp::Meeting& meeting = warp.meeting[slot];
  meeting.arrived |= 1u << self.lane;
  meeting.lanes.in[self.lane] = in;
  meeting.lanes.out[self.lane] = out;
  if (meeting.arrived == (mask & warp.present)) finish_meeting(&warp, slot);
  wait(operation.name, where);
}

// The meeting that the current lane comes to: one under way, or a new one.
int BlockRunner::join_meeting(const Operation& operation, uint32_t mask, Where where) {
  const Thread& self = *current_;
  Warp& warp = *self.warp;
  int slot = -1;
  for (int i = 0; warp.meetings >> i != 0; ++i) {
    if (!(warp.meetings >> i & 1)) continue;
    const Warp::Meeting& other = warp.meeting[i];
    if (other.mask == mask && other.operation == &operation && other.where == where) {
      slot = i;
    } else if (other.mask >> self.lane & 1 && (other.arrived & mask) != 0) {
      // Each side would wait for the other. A lane may well have something to do before it comes to a meeting, but not
      // together with those who wait there.
      fail(cudaErrorLaunchFailure,
           "divergent warp: lane %d calls %s (%s:%d, mask 0x%08x) while lanes 0x%08x wait for it in %s (%s:%d, mask "
           "0x%08x)",
           self.lane, operation.name, where.file, where.line, mask, other.arrived, other.operation->name,
           other.where.file, other.where.line, other.mask);
    }
  }
  if (slot < 0) {
    slot = __builtin_ctz(~warp.meetings);
    warp.meetings |= 1u << slot;
    warp.meeting[slot].operation = &operation;
    warp.meeting[slot].mask = mask;
    warp.meeting[slot].arrived = 0;
    warp.meeting[slot].where = where;
  }
  return slot;
}

void BlockRunner::finish_meeting(Warp* warp, int slot) {
  Warp::Meeting& meeting = warp->meeting[slot];
  meeting.lanes.met = meeting.arrived;
  if (meeting.operation->compute != nullptr) {
    meeting.operation->compute(meeting.lanes);
  } else {
    ++warp->epoch;  // __syncwarp, the only one that orders memory
  }
  warp->meetings &= ~(1u << slot);
  for (int lane = 0; lane < 32; ++lane) {
    if (!(meeting.arrived >> lane & 1)) continue;
    ready_.push_back(threads_[static_cast<size_t>(warp->first_thread + lane)].get());
  }
}

void meet(const Operation& operation, uint32_t mask, const void* in, void* out, Where where) {
  runner->collective(operation, mask, in, out, where);
}

void fail(cudaError_t code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  runner->fail_with(code, format, values);
}

}  // namespace simt
