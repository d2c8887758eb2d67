// One block of a kernel: its threads as fibers, in an order drawn by the seed; barriers and warp collectives.
//
// A thread runs until it must wait, returns, or fails; then another one that can go on is drawn. Nothing here is
// reached by two OS threads: blocks that run at the same time have a BlockRunner each.
#ifndef EDGECONV_COMMON_SIMT_BLOCK_H_
#define EDGECONV_COMMON_SIMT_BLOCK_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "common/simt/async_copies.h"
#include "common/simt/collective.h"
#include "common/simt/fiber.h"
#include "common/simt/launch.h"
#include "common/simt/place.h"
#include "common/simt/races.h"
#include "common/simt/random.h"
#include "common/simt/shared_memory.h"

namespace simt {

struct Warp;

struct Thread {
  ThreadPlace place;
  Fiber fiber;
  int number, lane;
  Warp* warp;
  bool returned;
  const char* waits_for;  // the latest operation that others take part in
  Where waits_at;
  AsyncCopies copies;
};

struct Warp {
  // Lanes that wait in a collective for the rest of its mask. Each waits in one, so there are no more than lanes.
  struct Meeting {
    const Operation* operation;
    uint32_t mask, arrived;
    Where where;
    Lanes lanes;
  };
  uint32_t meetings;  // which of `meeting` are under way
  uint32_t present;   // lanes that have a thread, and it has not returned
  int first_thread;
  uint32_t epoch;  // of the race detector
  Meeting meeting[32];
};

class BlockRunner {
 public:
  BlockRunner() = default;

  // Runs block `index` of the launch. False: it has failed, and the launch has the error.
  bool run(Launch* launch, uint3 index, uint64_t number);

  // What follows is for the thread that runs: `current`.

  // Waits for all threads of the block. The sum of all `value` is returned.
  int barrier(const char* name, int value, Where where);
  void collective(const Operation& operation, uint32_t mask, const void* in, void* out, Where where);
  [[noreturn]] void fail(cudaError_t code, const char* format, ...) __attribute__((format(printf, 3, 4)));
  [[noreturn]] void fail_with(cudaError_t code, const char* format, va_list values);

  Thread& current() { return *current_; }
  SharedMemory& shared() { return shared_; }
  const Launch& launch() const { return *launch_; }
  Races* races() { return races_.get(); }

 private:
  static void thread_entry();
  void prepare(int threads);
  void run_thread();
  void wait(const char* what, Where where);
  Thread* draw();
  void release_barrier();
  int join_meeting(const Operation& operation, uint32_t mask, Where where);
  void finish_meeting(Warp* warp, int slot);
  void leave();
  [[noreturn]] void stop();
  void report_deadlock();
  void record(cudaError_t code, const Thread* thread, const char* message);

  Launch* launch_ = nullptr;
  BlockPlace place_ = {};
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<Thread*> ready_;
  int count_ = 0, returned_ = 0;  // threads of this block
  bool failed_ = false;
  Thread* current_ = nullptr;
  Fiber scheduler_;
  Random random_;
  SharedMemory shared_;
  std::unique_ptr<Races> races_;

  // The barrier: who waits at it, and what they bring.
  std::vector<Thread*> at_barrier_;
  const char* barrier_name_ = nullptr;
  Where barrier_where_ = {};
  int barrier_sum_ = 0, barrier_result_ = 0;
};

// Of this OS thread; null outside kernels.
extern __thread BlockRunner* runner;

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_BLOCK_H_
