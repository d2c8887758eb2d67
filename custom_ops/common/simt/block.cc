#include "common/simt/block.h"

namespace simt {

__thread const ThreadPlace* place __attribute__((tls_model("initial-exec"))) = nullptr;
__thread BlockRunner* runner = nullptr;

void BlockRunner::prepare(int threads) {
  while (threads_.size() < static_cast<size_t>(threads)) threads_.push_back(std::make_unique<Thread>());
  warps_.resize(static_cast<size_t>(threads + 31) / 32);
  // No fiber may allocate: one that is forgotten would never free.
  ready_.reserve(static_cast<size_t>(threads));
  at_barrier_.reserve(static_cast<size_t>(threads));
  ready_.clear();
  at_barrier_.clear();
  count_ = threads;
  returned_ = barrier_sum_ = 0;
  failed_ = false;
  if (finds_races() && races_ == nullptr) races_ = std::make_unique<Races>();
  if (races_ != nullptr) races_->start_block();

  for (size_t i = 0; i < warps_.size(); ++i) {
    warps_[i].meetings = warps_[i].present = warps_[i].epoch = 0;
    warps_[i].first_thread = static_cast<int>(i) * 32;
  }
  const dim3 size = place_.block_size;
  for (int i = 0; i < threads; ++i) {
    Thread& thread = *threads_[static_cast<size_t>(i)];
    const unsigned number = static_cast<unsigned>(i);
    thread.place = {{number % size.x, number / size.x % size.y, number / (size.x * size.y)}, &place_};
    thread.number = i;
    thread.lane = i % 32;
    thread.warp = &warps_[static_cast<size_t>(i) / 32];
    thread.warp->present |= 1u << thread.lane;
    thread.returned = false;
    thread.waits_for = nullptr;
    thread.copies.start();
    if (!thread.fiber.restart(thread_entry)) {
      record(cudaErrorMemoryAllocation, &thread, "no memory for the stacks of its threads");
      return;
    }
    ready_.push_back(&thread);
  }
}

bool BlockRunner::run(Launch* launch, uint3 index, uint64_t number) {
  launch_ = launch;
  place_ = {index, launch->block, launch->grid};
  random_.seed(launch->settings.seed, number);
  shared_.start(launch->shared_bytes);
  runner = this;
  prepare(static_cast<int>(launch->block.x * launch->block.y * launch->block.z));
  if (!failed_) {
    current_ = draw();
    place = &current_->place;
    scheduler_.switch_to(&current_->fiber);
  }
  if (!failed_ && returned_ < count_) report_deadlock();
  if (!failed_ && shared_.overrun() != nullptr) {
    const std::string message = std::string("writes just outside ") + shared_.overrun();
    record(cudaErrorIllegalAddress, nullptr, message.c_str());
  }
  place = nullptr;
  runner = nullptr;
  return !failed_;
}

void BlockRunner::thread_entry() { runner->run_thread(); }

void BlockRunner::run_thread() {
  Thread& self = *current_;
  fiber_started(&self.fiber);
  launch_->call.run(launch_->call.arguments);
  leave();
  stop();
}

// Of the threads that can go on, the next one; null if there is none.
Thread* BlockRunner::draw() {
  if (ready_.empty()) return nullptr;
  const size_t index = launch_->settings.seed == 0 ? 0 : random_.below(ready_.size());
  Thread* const thread = ready_[index];
  if (launch_->settings.seed == 0) {
    ready_.erase(ready_.begin());
  } else {
    ready_[index] = ready_.back();
    ready_.pop_back();
  }
  return thread;
}

// Lets others run until this thread is drawn, which must have been made ready, or will be.
void BlockRunner::wait(const char* what, Where where) {
  Thread& self = *current_;
  self.waits_for = what;
  self.waits_at = where;
  Thread* const next = draw();
  if (next == &self) return;
  if (next == nullptr) {
    self.fiber.switch_to(&scheduler_);
  } else {
    current_ = next;
    place = &next->place;
    self.fiber.switch_to(&next->fiber);
  }
}

// Ends this thread for good.
void BlockRunner::stop() {
  Thread& self = *current_;
  Thread* const next = failed_ ? nullptr : draw();
  if (next != nullptr) {
    current_ = next;
    place = &next->place;
  }
  self.fiber.switch_to(next != nullptr ? &next->fiber : &scheduler_, true);
  __builtin_unreachable();
}

int BlockRunner::barrier(const char* name, int value, Where where) {
  if (returned_ > 0 && launch_->settings.strict) {
    fail(cudaErrorLaunchFailure, "%s (%s:%d) is not reached by all threads: %d of %d have returned", name, where.file,
         where.line, returned_, count_);
  }
  if (at_barrier_.empty()) {
    barrier_name_ = name;
    barrier_where_ = where;
  } else if (!(where == barrier_where_)) {
    fail(cudaErrorLaunchFailure, "waits at %s (%s:%d) while others wait at another barrier, %s (%s:%d)", name,
         where.file, where.line, barrier_name_, barrier_where_.file, barrier_where_.line);
  }
  barrier_sum_ += value;
  at_barrier_.push_back(current_);
  if (static_cast<int>(at_barrier_.size()) + returned_ == count_) release_barrier();
  wait(name, where);  // who comes last, too: it has no right to go on first
  return barrier_result_;
}

void BlockRunner::release_barrier() {
  barrier_result_ = barrier_sum_;
  barrier_sum_ = 0;
  ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
  at_barrier_.clear();
  if (races_ != nullptr) races_->barrier();
}

// What a thread that returns leaves to those who wait for it.
void BlockRunner::leave() {
  Thread& self = *current_;
  if (!at_barrier_.empty() && launch_->settings.strict) {
    fail(cudaErrorLaunchFailure, "returns while %zu of %d threads wait for it at %s (%s:%d)", at_barrier_.size(),
         count_, barrier_name_, barrier_where_.file, barrier_where_.line);
  }
  self.returned = true;
  ++returned_;
  Warp& warp = *self.warp;
  warp.present &= ~(1u << self.lane);
  for (int slot = 0; warp.meetings >> slot != 0; ++slot) {
    Warp::Meeting& meeting = warp.meeting[slot];
    if (!(warp.meetings >> slot & 1) || !(meeting.mask >> self.lane & 1)) continue;
    if (meeting.operation->full) {
      fail(cudaErrorLaunchFailure, "returns while lanes of its warp wait for it in %s (%s:%d)", meeting.operation->name,
           meeting.where.file, meeting.where.line);
    }
    if (meeting.arrived == (meeting.mask & warp.present)) finish_meeting(&warp, slot);
  }
  if (!at_barrier_.empty() && static_cast<int>(at_barrier_.size()) + returned_ == count_) release_barrier();
}

}  // namespace simt
