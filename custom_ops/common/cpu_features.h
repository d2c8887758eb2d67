// Which instruction sets the CPU has, and which one the kernels shall use.
#ifndef EDGECONV_COMMON_CPU_FEATURES_H_
#define EDGECONV_COMMON_CPU_FEATURES_H_

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// In rising order: a CPU that has one has those before it. An operator has a file for some of them, and uses the best
// that is not above the one selected.
typedef enum EdgeconvIsa {
  EDGECONV_ISA_BASELINE = 0,  // what every CPU of the architecture has, in the compiler's vectors (SSE2, NEON)
#ifdef __aarch64__
  EDGECONV_ISA_NEON = 1,
  EDGECONV_ISA_NEON_DOTPROD = 2,  // udot, sdot (Armv8.2)
#else
  EDGECONV_ISA_AVX2 = 1,         // with FMA and F16C
  EDGECONV_ISA_AVX512 = 2,       // F, VL, DQ, BW
  EDGECONV_ISA_AVX512_VNNI = 3,  // vpdpbusd
  EDGECONV_ISA_AMX = 4,          // TILE, BF16 and INT8, with AVX512_BF16, where the kernel lets the process use tiles
#endif
} EdgeconvIsa;

// The best instruction set that this CPU has.
int edgeconv_best_isa(void);

// The best instruction set, or the one that the environment variable EDGECONV_CPU_ISA names (edgeconv_isa_name) if the
// CPU has it; otherwise the best one below. An unknown name is an error.
int edgeconv_select_isa(int* isa, EdgeconvStatus* status);

// "baseline", "avx2", "avx512", "avx512_vnni", "amx"; on aarch64 "baseline", "neon", "neon_dotprod".
const char* edgeconv_isa_name(int isa);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_CPU_FEATURES_H_
