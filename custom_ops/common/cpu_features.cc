#include "common/cpu_features.h"

#include <cstdlib>
#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#ifdef __aarch64__
constexpr const char* kNames[] = {"baseline", "neon", "neon_dotprod"};
#else
constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_vnni", "amx"};
#endif
constexpr int kCount = sizeof(kNames) / sizeof(*kNames);

#ifdef __x86_64__
// Linux hands the tile registers out on request, once for the process: arch_prctl(ARCH_REQ_XCOMP_PERM,
// XFEATURE_XTILEDATA).
bool may_use_tiles() {
#ifdef EDGECONV_SOFTWARE_TILES
  return true;
#elif defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
#ifndef EDGECONV_SOFTWARE_TILES
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  if ((edx & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) return false;
#endif
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvx512Bf16) != 0 && may_use_tiles();
}
#endif

int detect() {
#ifdef __x86_64__
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  // __builtin_cpu_supports also asks whether the operating system saves the wide registers.
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return EDGECONV_ISA_BASELINE;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (!avx512) return EDGECONV_ISA_AVX2;
  if (!__builtin_cpu_supports("avx512vnni")) return EDGECONV_ISA_AVX512;
  return has_amx() ? EDGECONV_ISA_AMX : EDGECONV_ISA_AVX512_VNNI;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProduct ? EDGECONV_ISA_NEON_DOTPROD : EDGECONV_ISA_NEON;
#elif defined(__aarch64__)
  return EDGECONV_ISA_NEON;
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
  char expected[96] = "";
  for (int level = 0; level < kCount; ++level) {
    if (std::strcmp(wanted, kNames[level]) == 0) {
      if (level < *isa) *isa = level;
      return EDGECONV_OK;
    }
    if (level > 0) std::strcat(expected, level + 1 < kCount ? ", " : " or ");
    std::strcat(expected, kNames[level]);
  }
  return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "EDGECONV_CPU_ISA is '%.64s': expected %s", wanted,
                             expected);
}

const char* edgeconv_isa_name(int isa) { return isa >= 0 && isa < kCount ? kNames[isa] : "unknown"; }

}  // extern "C"
