// Which instruction sets the CPU has, and which one the kernels shall use.
#ifndef EDGECONV_COMMON_CPU_FEATURES_H_
#define EDGECONV_COMMON_CPU_FEATURES_H_

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// In rising order: a CPU that has one has those before it.
typedef enum EdgeconvIsa {
  EDGECONV_ISA_BASELINE = 0,  // what every CPU of the architecture has (x86-64: SSE2; aarch64: NEON)
  EDGECONV_ISA_AVX2 = 1,      // with FMA and F16C
  EDGECONV_ISA_AVX512 = 2,    // F, VL, DQ, BW
} EdgeconvIsa;

// The best instruction set that this CPU has and this library was built for.
int edgeconv_best_isa(void);

// The best instruction set, or the one that the environment variable EDGECONV_CPU_ISA (baseline, avx2, avx512) names
// if the CPU has it; otherwise the best one below. An unknown name is an error.
int edgeconv_select_isa(int* isa, EdgeconvStatus* status);

const char* edgeconv_isa_name(int isa);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_CPU_FEATURES_H_
