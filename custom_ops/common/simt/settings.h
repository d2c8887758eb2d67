// Settings and the last error, with C linkage, so that a test reaches them through ctypes.
#ifndef EDGECONV_COMMON_SIMT_SETTINGS_H_
#define EDGECONV_COMMON_SIMT_SETTINGS_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGECONV_SIMT_EXPORT __attribute__((visibility("default")))

// What the latest kernel launch of this OS thread failed on; "" if it succeeded. Valid until the next launch.
EDGECONV_SIMT_EXPORT const char* edgeconv_simt_last_error(void);

// The order in which threads and blocks run: 0 as they are numbered, anything else shuffled. From the environment
// variable EDGECONV_SIMT_SEED; 1 by default. The order is the same in every run; only that of blocks is not, where
// several OS threads run them.
EDGECONV_SIMT_EXPORT void edgeconv_simt_set_seed(uint64_t seed);

// How many OS threads run blocks. EDGECONV_SIMT_THREADS; 2 by default.
EDGECONV_SIMT_EXPORT void edgeconv_simt_set_threads(int threads);

// Whether a barrier that a returned thread cannot reach is an error, or counts that thread as arrived, which GPUs since
// Volta do: most often it is a mistake all the same. EDGECONV_SIMT_STRICT; 1 by default.
EDGECONV_SIMT_EXPORT void edgeconv_simt_set_strict(int strict);

// The GPU whose limits hold: 87 (Orin, the default and the tightest), 90 or 110. EDGECONV_SIMT_DEVICE. Returns 0, or 1
// if there is no such GPU here.
EDGECONV_SIMT_EXPORT int edgeconv_simt_set_device(int compute_capability);

// Whether races are looked for: the kernels were compiled with -fsanitize=thread (races.cc).
EDGECONV_SIMT_EXPORT int edgeconv_simt_finds_races(void);

#ifdef __cplusplus
}

namespace simt {

// CUDA Programming Guide, "Compute Capabilities": limits of a multiprocessor and of a block; their number is a
// product's.
struct Device {
  int compute_capability;
  const char* name;
  int multiprocessors;
  int shared_bytes_per_multiprocessor;
  int shared_bytes_per_block;  // at most, where a kernel has asked for it
  int threads_per_multiprocessor;
};

constexpr int kDefaultSharedBytes = 48 << 10;  // without asking; and of static arrays in any case
constexpr int kMostThreads = 1024, kMostThreadsZ = 64;
constexpr int64_t kMostBlocksX = 0x7fffffff, kMostBlocksYZ = 65535;

struct Settings {
  uint64_t seed;
  int threads;
  bool strict;
  const Device* device;
};

// As they are now: a launch takes a copy.
Settings settings();

}  // namespace simt
#endif

#endif  // EDGECONV_COMMON_SIMT_SETTINGS_H_
