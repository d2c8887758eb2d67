#include "common/simt/atomics.h"

#include "common/simt/races.h"

namespace {

// Puts compute(what is there) in its place.
template <typename Value, typename Compute>
Value update(Value* to, const Compute& compute) {
  simt::note_access(to, sizeof(Value), simt::Access::kAtomic);
  Value before, after;
  __atomic_load(to, &before, __ATOMIC_RELAXED);
  do {
    after = compute(before);
  } while (!__atomic_compare_exchange(to, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}

template <typename Value>
Value add(Value* to, Value value) {
  return update(to, [value](Value before) { return before + value; });
}

template <typename Value>
Value larger(Value* to, Value value) {
  return update(to, [value](Value before) { return before > value ? before : value; });
}

template <typename Value>
Value smaller(Value* to, Value value) {
  return update(to, [value](Value before) { return before < value ? before : value; });
}

template <typename Value>
Value exchange(Value* to, Value value) {
  return update(to, [value](Value) { return value; });
}

template <typename Value>
Value exchange_if(Value* to, Value expected, Value value) {
  return update(to, [expected, value](Value before) { return before == expected ? value : before; });
}

}  // namespace

float atomicAdd(float* to, float value) { return add(to, value); }
double atomicAdd(double* to, double value) { return add(to, value); }
// Integers wrap around, which C++ promises for the unsigned ones alone.
int atomicAdd(int* to, int value) {
  return static_cast<int>(add(reinterpret_cast<unsigned*>(to), static_cast<unsigned>(value)));
}
unsigned atomicAdd(unsigned* to, unsigned value) { return add(to, value); }
unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) { return add(to, value); }
int atomicMax(int* to, int value) { return larger(to, value); }
unsigned atomicMax(unsigned* to, unsigned value) { return larger(to, value); }
int atomicMin(int* to, int value) { return smaller(to, value); }
unsigned atomicMin(unsigned* to, unsigned value) { return smaller(to, value); }
unsigned atomicOr(unsigned* to, unsigned value) {
  return update(to, [value](unsigned before) { return before | value; });
}
unsigned atomicAnd(unsigned* to, unsigned value) {
  return update(to, [value](unsigned before) { return before & value; });
}
int atomicExch(int* to, int value) { return exchange(to, value); }
unsigned atomicExch(unsigned* to, unsigned value) { return exchange(to, value); }
int atomicCAS(int* to, int expected, int value) { return exchange_if(to, expected, value); }
unsigned atomicCAS(unsigned* to, unsigned expected, unsigned value) { return exchange_if(to, expected, value); }

void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
