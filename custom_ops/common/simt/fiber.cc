#include "common/simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

namespace {

// A sanitizer's red zones make frames several times larger. Memory that is never touched costs nothing.
constexpr size_t kStackBytes = size_t(256) << 10;

// Who made the latest switch of this OS thread: the sanitizer says whose stack was left only afterwards.
thread_local Fiber* switched_from = nullptr;

}  // namespace

#ifdef EDGECONV_SIMT_UCONTEXT

void Fiber::make_context(void (*entry)()) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = const_cast<void*>(stack_);
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Fiber::jump_to(Fiber* to) { swapcontext(&context_, &to->context_); }

#else

// Pushes the registers that a callee must keep, stores the stack pointer at `from`, takes the one at `to`, and pops.
extern "C" void edgeconv_simt_switch(void** from, void* to);

#if defined(__x86_64__)

constexpr size_t kSavedWords = 6;
asm(R"(
.text
.globl edgeconv_simt_switch
.hidden edgeconv_simt_switch
.type edgeconv_simt_switch, @function
edgeconv_simt_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size edgeconv_simt_switch, .-edgeconv_simt_switch
)");

#else  // aarch64

constexpr size_t kSavedWords = 20;
asm(R"(
.text
.globl edgeconv_simt_switch
.hidden edgeconv_simt_switch
.type edgeconv_simt_switch, %function
edgeconv_simt_switch:
  sub sp, sp, #160
  stp x30, x29, [sp, #0]
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x30, x29, [sp, #0]
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size edgeconv_simt_switch, .-edgeconv_simt_switch
)");

#endif

void Fiber::make_context(void (*entry)()) {
  char* const end = static_cast<char*>(const_cast<void*>(stack_)) + stack_bytes_;
  void** top = reinterpret_cast<void**>(end) - 2;  // 16-byte aligned, as both calling conventions want it
  std::memset(top, 0, 2 * sizeof(*top));
#if defined(__x86_64__)
  *top = reinterpret_cast<void*>(entry);  // where `ret` goes; above it, no return address ends a backtrace
  top -= kSavedWords;
  std::memset(top, 0, kSavedWords * sizeof(*top));
#else
  top -= kSavedWords;
  std::memset(top, 0, kSavedWords * sizeof(*top));
  *top = reinterpret_cast<void*>(entry);  // x30, the link register
#endif
  stack_pointer_ = top;
}

void Fiber::jump_to(Fiber* to) { edgeconv_simt_switch(&stack_pointer_, to->stack_pointer_); }

#endif  // EDGECONV_SIMT_UCONTEXT

Fiber::~Fiber() {
  if (mapping_ != nullptr) munmap(mapping_, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
}

bool Fiber::restart(void (*entry)()) {
  if (mapping_ == nullptr) {
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* const mapping =
        mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return false;
    mprotect(mapping, guard, PROT_NONE);
    mapping_ = mapping;
    stack_ = static_cast<char*>(mapping) + guard;
    stack_bytes_ = kStackBytes;
  }
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // frames that were forgotten left red zones
#endif
  fake_stack_ = nullptr;
  make_context(entry);
  return true;
}

// Completes the latest switch on the side that it went to.
void fiber_arrived(Fiber* previous, Fiber* fiber) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber->fake_stack_, &previous->stack_, &previous->stack_bytes_);
#else
  static_cast<void>(previous);
  static_cast<void>(fiber);
#endif
}

void fiber_started(Fiber* fiber) { fiber_arrived(switched_from, fiber); }

void Fiber::switch_to(Fiber* to, bool last) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to->stack_, to->stack_bytes_);
#else
  static_cast<void>(last);
#endif
  switched_from = this;
  jump_to(to);
  fiber_arrived(switched_from, this);
}

}  // namespace simt
