#include "common/cpu_features.h"

#include <cstdlib>
#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

int detect() {
#ifdef __x86_64__
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  // __builtin_cpu_supports also asks whether the operating system saves the wide registers.
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return EDGECONV_ISA_BASELINE;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  return avx512 ? EDGECONV_ISA_AVX512 : EDGECONV_ISA_AVX2;
#else
  return EDGECONV_ISA_BASELINE;
#endif
}

}  // namespace

extern "C" {

int edgeconv_best_isa(void) {
  static const int best = detect();
  return best;
}

int edgeconv_select_isa(int* isa, EdgeconvStatus* status) {
  *isa = edgeconv_best_isa();
  status->code = EDGECONV_OK;
  const char* wanted = std::getenv("EDGECONV_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return EDGECONV_OK;
  for (int level = 0; level < static_cast<int>(sizeof(kNames) / sizeof(*kNames)); ++level) {
    if (std::strcmp(wanted, kNames[level]) == 0) {
      if (level < *isa) *isa = level;
      return EDGECONV_OK;
    }
  }
  return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT,
                             "EDGECONV_CPU_ISA is '%.64s': expected baseline, avx2 or avx512", wanted);
}

const char* edgeconv_isa_name(int isa) {
  return isa >= 0 && isa < static_cast<int>(sizeof(kNames) / sizeof(*kNames)) ? kNames[isa] : "unknown";
}

}  // extern "C"
