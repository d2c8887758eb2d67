// Atomic functions of CUDA C++, on shared and on global memory: blocks may run on several OS threads.
#ifndef EDGECONV_COMMON_SIMT_ATOMICS_H_
#define EDGECONV_COMMON_SIMT_ATOMICS_H_

// Each returns what was there before.
float atomicAdd(float* to, float value);
double atomicAdd(double* to, double value);
int atomicAdd(int* to, int value);
unsigned atomicAdd(unsigned* to, unsigned value);
unsigned long long atomicAdd(unsigned long long* to, unsigned long long value);
int atomicMax(int* to, int value);
unsigned atomicMax(unsigned* to, unsigned value);
int atomicMin(int* to, int value);
unsigned atomicMin(unsigned* to, unsigned value);
unsigned atomicOr(unsigned* to, unsigned value);
unsigned atomicAnd(unsigned* to, unsigned value);
int atomicExch(int* to, int value);
unsigned atomicExch(unsigned* to, unsigned value);
int atomicCAS(int* to, int expected, int value);
unsigned atomicCAS(unsigned* to, unsigned expected, unsigned value);

void __threadfence();
void __threadfence_block();

#endif  // EDGECONV_COMMON_SIMT_ATOMICS_H_
