// Fibers: stacks that one OS thread switches between, one for each thread of a CUDA block.
//
// The switch is a few instructions of assembly on x86-64 and aarch64, and ucontext elsewhere (or everywhere, with
// -DEDGECONV_SIMT_UCONTEXT: it costs two system calls a switch). The address sanitizer is told of every switch.
#ifndef EDGECONV_COMMON_SIMT_FIBER_H_
#define EDGECONV_COMMON_SIMT_FIBER_H_

#include <cstddef>

#if !defined(EDGECONV_SIMT_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define EDGECONV_SIMT_UCONTEXT
#endif
#ifdef EDGECONV_SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace simt {

class Fiber {
 public:
  // The OS thread's own stack: what it switches to a fiber from.
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next switch to this fiber call `entry` on an empty stack. Whatever ran on the stack is forgotten without
  // unwinding: device code owns nothing. `entry` must not return. False if there is no memory for a stack.
  bool restart(void (*entry)());

  // Goes on with `to`; returns when something switches to this fiber again. `last`: nothing will.
  void switch_to(Fiber* to, bool last = false);

 private:
  friend void fiber_arrived(Fiber* previous, Fiber* fiber);
  void make_context(void (*entry)());
  void jump_to(Fiber* to);

  void* mapping_ = nullptr;  // a page without access, then the stack
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;  // the address sanitizer's
#ifdef EDGECONV_SIMT_UCONTEXT
  ucontext_t context_ = {};
#else
  void* stack_pointer_ = nullptr;  // while another fiber runs
#endif
};

// To be called first in a fiber's `entry`.
void fiber_started(Fiber* fiber);

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_FIBER_H_
