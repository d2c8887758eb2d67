// One machine's ceilings: how fast its cores accumulate what a kervolution accumulates, and how fast they read memory.
//
//   ceilings CPU[,CPU...] LEVEL=BYTES...      e.g. ceilings 0,1 L2=524288 L3=16777216 DRAM=134217728
//
// Every accumulation has several instruction forms, because which one is fastest depends on the core: where maxima and
// sums share a pipe, a multiplication by one moves the sum to another. Each loop holds its operands in registers and is
// written whole as assembly, so that no compiler reorders, hoists or spills. The forms take turns of about two
// milliseconds, each once a round. On several CPUs all run the same form at the same time, and rates are added.
//
// Rates are in 10^9 elements (x, w pairs) a second, bandwidths in 10^9 bytes a second, both printed as JSON, all rounds.
// The clock is the thread's CPU time on one CPU and the wall's on several.

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

constexpr int kRounds = 25;
constexpr double kTurnSeconds = 2e-3;

// Operands of the loops: x, w, the mask of an absolute value, 1.0f, and 1 in every byte; a 64-byte vector each.
alignas(64) unsigned char constants[5 * 64];

void fill_constants() {
  const float x = 1.25f, w = -0.75f, one = 1.0f;
  const std::uint32_t mask = 0x7fffffffu;
  for (int i = 0; i < 16; ++i) {
    std::memcpy(constants + 4 * i, &x, 4);
    std::memcpy(constants + 64 + 4 * i, &w, 4);
    std::memcpy(constants + 128 + 4 * i, &mask, 4);
    std::memcpy(constants + 192 + 4 * i, &one, 4);
  }
  std::memset(constants + 256, 1, 64);
}

struct Form {
  const char* accumulation;
  const char* name;
  const char* isa;
  double elements;  // an iteration
  void (*run)(long iterations);
};

#if defined(__x86_64__)

#define CLOBBERS                                                                                              \
  "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",    \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"  // the compiler is not told of registers 16 to 31: it has none

// `step` once for each accumulator, whose number is \n; 20 of 512 bits, 10 of 256 bits: enough for latency 5, two pipes.
#define LOOP_512(function, step)                                                                              \
  void function(long iterations) {                                                                            \
    __asm__ volatile(                                                                                         \
        "vmovups (%1), %%zmm28\n vmovups 64(%1), %%zmm29\n vmovups 128(%1), %%zmm30\n"                        \
        "vmovups 192(%1), %%zmm31\n vmovups 256(%1), %%zmm27\n"                                               \
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19\n"                                          \
        "vpxord %%zmm\\n, %%zmm\\n, %%zmm\\n\n"                                                               \
        ".endr\n"                                                                                             \
        "1:\n"                                                                                                \
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19\n" step "\n"                                \
        ".endr\n"                                                                                             \
        "dec %0\n jnz 1b\n vzeroupper\n"                                                                      \
        : "+r"(iterations)                                                                                    \
        : "r"(constants)                                                                                      \
        : CLOBBERS);                                                                                          \
  }

#define LOOP_256(function, step)                                                                              \
  void function(long iterations) {                                                                            \
    __asm__ volatile(                                                                                         \
        "vmovups (%1), %%ymm12\n vmovups 64(%1), %%ymm13\n vmovups 128(%1), %%ymm14\n"                        \
        "vmovups 192(%1), %%ymm15\n vmovups 256(%1), %%ymm11\n"                                               \
        ".irp n,0,1,2,3,4,5,6,7,8,9\n"                                                                        \
        "vpxor %%ymm\\n, %%ymm\\n, %%ymm\\n\n"                                                                \
        ".endr\n"                                                                                             \
        "1:\n"                                                                                                \
        ".irp n,0,1,2,3,4,5,6,7,8,9\n" step "\n"                                                              \
        ".endr\n"                                                                                             \
        "dec %0\n jnz 1b\n vzeroupper\n"                                                                      \
        : "+r"(iterations)                                                                                    \
        : "r"(constants)                                                                                      \
        : CLOBBERS);                                                                                          \
  }

// The difference x - w as a multiply-add has to overwrite an operand: a copy of x, or x loaded each time.
#define SUB_512 "vsubps %%zmm29, %%zmm28, %%zmm20\n"
#define SUB_256 "vsubps %%ymm13, %%ymm12, %%ymm10\n"
#define FMSUB_512 "vmovaps %%zmm28, %%zmm20\n vfmsub132ps %%zmm31, %%zmm29, %%zmm20\n"
#define LOAD_FMSUB_512 "vmovaps (%1), %%zmm20\n vfmsub132ps %%zmm31, %%zmm29, %%zmm20\n"
#define FMSUB_256 "vmovaps %%ymm12, %%ymm10\n vfmsub132ps %%ymm15, %%ymm13, %%ymm10\n"

LOOP_512(dot_512, "vfmadd231ps %%zmm29, %%zmm28, %%zmm\\n")
LOOP_512(sum_sub_and_add_512, SUB_512 "vandps %%zmm30, %%zmm20, %%zmm20\n vaddps %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(sum_sub_and_fma_512, SUB_512 "vandps %%zmm30, %%zmm20, %%zmm20\n vfmadd231ps %%zmm31, %%zmm20, %%zmm\\n")
LOOP_512(sum_max_add_512, "vmaxps %%zmm29, %%zmm28, %%zmm20\n vaddps %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(sum_max_fma_512, "vmaxps %%zmm29, %%zmm28, %%zmm20\n vfmadd231ps %%zmm31, %%zmm20, %%zmm\\n")
LOOP_512(most_sub_and_max_512, SUB_512 "vandps %%zmm30, %%zmm20, %%zmm20\n vmaxps %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(most_sub_and_pmaxsd_512, SUB_512 "vandps %%zmm30, %%zmm20, %%zmm20\n vpmaxsd %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(most_sub_range_512, SUB_512 "vrangeps $11, %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(most_fmsub_range_512, FMSUB_512 "vrangeps $11, %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(most_load_fmsub_range_512, LOAD_FMSUB_512 "vrangeps $11, %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(most_fmsub_and_pmaxsd_512, FMSUB_512 "vandps %%zmm30, %%zmm20, %%zmm20\n vpmaxsd %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(sad_add_512, "vpsadbw %%zmm29, %%zmm28, %%zmm20\n vpaddd %%zmm20, %%zmm\\n, %%zmm\\n")
LOOP_512(pmaxub_dpbusd_512, "vpmaxub %%zmm29, %%zmm28, %%zmm20\n vpdpbusd %%zmm27, %%zmm20, %%zmm\\n")
LOOP_512(dpbusd_512, "vpdpbusd %%zmm29, %%zmm28, %%zmm\\n")

LOOP_256(dot_256, "vfmadd231ps %%ymm13, %%ymm12, %%ymm\\n")
LOOP_256(sum_sub_and_add_256, SUB_256 "vandps %%ymm14, %%ymm10, %%ymm10\n vaddps %%ymm10, %%ymm\\n, %%ymm\\n")
LOOP_256(sum_sub_and_fma_256, SUB_256 "vandps %%ymm14, %%ymm10, %%ymm10\n vfmadd231ps %%ymm15, %%ymm10, %%ymm\\n")
LOOP_256(sum_max_add_256, "vmaxps %%ymm13, %%ymm12, %%ymm10\n vaddps %%ymm10, %%ymm\\n, %%ymm\\n")
LOOP_256(sum_max_fma_256, "vmaxps %%ymm13, %%ymm12, %%ymm10\n vfmadd231ps %%ymm15, %%ymm10, %%ymm\\n")
LOOP_256(most_sub_and_max_256, SUB_256 "vandps %%ymm14, %%ymm10, %%ymm10\n vmaxps %%ymm10, %%ymm\\n, %%ymm\\n")
LOOP_256(most_sub_and_pmaxsd_256, SUB_256 "vandps %%ymm14, %%ymm10, %%ymm10\n vpmaxsd %%ymm10, %%ymm\\n, %%ymm\\n")
LOOP_256(most_fmsub_and_pmaxsd_256, FMSUB_256 "vandps %%ymm14, %%ymm10, %%ymm10\n vpmaxsd %%ymm10, %%ymm\\n, %%ymm\\n")
LOOP_256(sad_add_256, "vpsadbw %%ymm13, %%ymm12, %%ymm10\n vpaddd %%ymm10, %%ymm\\n, %%ymm\\n")

// Assemblers that come with older compilers do not know these instructions.
#if (defined(__clang_major__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define NEW_INSTRUCTIONS 1
LOOP_256(pmaxub_dpbusd_256, "vpmaxub %%ymm13, %%ymm12, %%ymm10\n %{vex%} vpdpbusd %%ymm11, %%ymm10, %%ymm\\n")
LOOP_256(dpbusd_256, "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm\\n")
LOOP_512(dpbf16_512, "vdpbf16ps %%zmm29, %%zmm28, %%zmm\\n")

// Tiles of 16 rows of 64 bytes: 0 to 3 are the sums, 4 and 5 rows of x, 6 and 7 columns of w.
struct TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define LOOP_TILES(function, instruction)                                                                     \
  void function(long iterations) {                                                                            \
    const TileConfig config;                                                                                  \
    __asm__ volatile(                                                                                         \
        "ldtilecfg (%1)\n"                                                                                    \
        ".irp n,0,1,2,3,4,5,6,7\n tilezero %%tmm\\n\n .endr\n"                                                \
        "1:\n" instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction " %%tmm7, %%tmm4, %%tmm1\n"                \
        instruction " %%tmm6, %%tmm5, %%tmm2\n" instruction " %%tmm7, %%tmm5, %%tmm3\n"                       \
        "dec %0\n jnz 1b\n tilerelease\n"                                                                     \
        : "+r"(iterations)                                                                                    \
        : "r"(&config)                                                                                        \
        : "cc", "memory");                                                                                    \
  }
LOOP_TILES(tiles_bf16, "tdpbf16ps")
LOOP_TILES(tiles_u8, "tdpbusd")
#endif

struct Cpu {
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw");
  bool vnni = false, avx_vnni = false, bf16 = false, amx_u8 = false, amx_bf16 = false;

  Cpu() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    vnni = avx512 && (c >> 11 & 1);
    // The kernel hands out the tiles' registers on request (ARCH_REQ_XCOMP_PERM of XTILEDATA).
    const bool tiles = (d >> 24 & 1) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    amx_bf16 = tiles && (d >> 22 & 1);
    amx_u8 = tiles && (d >> 25 & 1);
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
      avx_vnni = avx2 && (a >> 4 & 1);
      bf16 = avx512 && (a >> 5 & 1);
    }
  }
};

std::vector<Form> forms_of(const Cpu& cpu) {
  std::vector<Form> forms;
  if (cpu.avx2) {
    const double n = 10 * 8;
    forms.insert(forms.end(), {{"dot", "fma", "avx2", n, dot_256},
                               {"manhattan", "sub, and, add", "avx2", n, sum_sub_and_add_256},
                               {"manhattan", "sub, and, fma", "avx2", n, sum_sub_and_fma_256},
                               {"manhattan", "max, add", "avx2", n, sum_max_add_256},
                               {"manhattan", "max, fma", "avx2", n, sum_max_fma_256},
                               {"chebyshev", "sub, and, max", "avx2", n, most_sub_and_max_256},
                               {"chebyshev", "sub, and, pmaxsd", "avx2", n, most_sub_and_pmaxsd_256},
                               {"chebyshev", "fmsub, and, pmaxsd", "avx2", n, most_fmsub_and_pmaxsd_256},
                               {"manhattan u8", "psadbw, paddd", "avx2", 4 * n, sad_add_256}});
  }
  if (cpu.avx512) {
    const double n = 20 * 16;
    forms.insert(forms.end(), {{"dot", "fma", "avx512", n, dot_512},
                               {"manhattan", "sub, and, add", "avx512", n, sum_sub_and_add_512},
                               {"manhattan", "sub, and, fma", "avx512", n, sum_sub_and_fma_512},
                               {"manhattan", "max, add", "avx512", n, sum_max_add_512},
                               {"manhattan", "max, fma", "avx512", n, sum_max_fma_512},
                               {"chebyshev", "sub, and, max", "avx512", n, most_sub_and_max_512},
                               {"chebyshev", "sub, and, pmaxsd", "avx512", n, most_sub_and_pmaxsd_512},
                               {"chebyshev", "sub, vrangeps", "avx512", n, most_sub_range_512},
                               {"chebyshev", "fmsub, vrangeps", "avx512", n, most_fmsub_range_512},
                               {"chebyshev", "load, fmsub, vrangeps", "avx512", n, most_load_fmsub_range_512},
                               {"chebyshev", "fmsub, and, pmaxsd", "avx512", n, most_fmsub_and_pmaxsd_512},
                               {"manhattan u8", "psadbw, paddd", "avx512", 4 * n, sad_add_512}});
    if (cpu.vnni) {
      forms.push_back({"manhattan u8", "pmaxub, dpbusd", "avx512_vnni", 4 * n, pmaxub_dpbusd_512});
      forms.push_back({"dot u8", "dpbusd", "avx512_vnni", 4 * n, dpbusd_512});
    }
  }
#if NEW_INSTRUCTIONS
  if (cpu.avx_vnni) {
    forms.push_back({"manhattan u8", "pmaxub, dpbusd", "avx_vnni", 320, pmaxub_dpbusd_256});
    forms.push_back({"dot u8", "dpbusd", "avx_vnni", 320, dpbusd_256});
  }
  if (cpu.bf16) forms.push_back({"dot bf16", "dpbf16", "avx512_bf16", 20 * 32, dpbf16_512});
  if (cpu.amx_bf16) forms.push_back({"dot bf16", "tdpbf16ps", "amx", 4 * 16 * 16 * 32, tiles_bf16});
  if (cpu.amx_u8) forms.push_back({"dot u8", "tdpbusd", "amx", 4 * 16 * 16 * 64, tiles_u8});
#endif
  return forms;
}

bool wide_reads = false;

// Reads `blocks` of 512 bytes and keeps nothing.
void read_memory(const unsigned char* data, long blocks) {
  if (wide_reads) {
    __asm__ volatile(
        "1:\n .irp n,0,1,2,3,4,5,6,7\n vmovups 64*\\n(%0), %%zmm\\n\n .endr\n"
        "add $512, %0\n dec %1\n jnz 1b\n vzeroupper\n"
        : "+r"(data), "+r"(blocks)
        :
        : CLOBBERS);
  } else {
    __asm__ volatile(
        "1:\n .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 32*\\n(%0), %%xmm\\n\n"
        "movups 32*\\n+16(%0), %%xmm\\n\n .endr\n"
        "add $512, %0\n dec %1\n jnz 1b\n"
        : "+r"(data), "+r"(blocks)
        :
        : CLOBBERS);
  }
}

std::vector<Form> find_forms() {
  const Cpu cpu;
  wide_reads = cpu.avx512;
  return forms_of(cpu);
}

#else  // Other architectures: bandwidths only.

std::vector<Form> find_forms() { return {}; }

void read_memory(const unsigned char* data, long blocks) {
  std::uint64_t sums[8] = {};
  for (; blocks > 0; --blocks, data += 512) {
    for (int i = 0; i < 64; ++i) {
      std::uint64_t word;
      std::memcpy(&word, data + 8 * i, 8);
      sums[i & 7] ^= word;
    }
    __asm__ volatile("" : : "r"(sums) : "memory");
  }
}

#endif

double seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Level {
  std::string name;
  long blocks;
};

// Something to measure: `count` runs of it are one turn of a thread.
struct Task {
  const Form* form;
  const Level* level;
  double amount;
  long count = 1;

  void run(const unsigned char* data, long times) const {
    if (form) {
      form->run(times);
    } else {
      for (long i = 0; i < times; ++i) read_memory(data, level->blocks);
    }
  }
};

void fail(const char* message) {
  std::fprintf(stderr, "ceilings: %s\n", message);
  std::exit(2);
}

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) fail("a CPU of the list cannot be used");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) fail("usage: ceilings CPU[,CPU...] [LEVEL=BYTES...]");
  std::vector<int> cpus;
  for (char* part = std::strtok(argv[1], ","); part; part = std::strtok(nullptr, ",")) cpus.push_back(std::atoi(part));
  std::vector<Level> levels;
  long most = 1;
  for (int i = 2; i < argc; ++i) {
    char* sign = std::strchr(argv[i], '=');
    if (!sign) fail("a memory level is LEVEL=BYTES");
    levels.push_back({std::string(argv[i], sign), std::atol(sign + 1) / 512});
    if (levels.back().blocks < 1) fail("a memory level has 512 bytes or more");
    if (levels.back().blocks > most) most = levels.back().blocks;
  }
  fill_constants();
  const std::vector<Form> forms = find_forms();
  std::vector<Task> tasks;
  for (const Form& form : forms) tasks.push_back({&form, nullptr, form.elements});
  for (const Level& level : levels) tasks.push_back({nullptr, &level, 512.0 * static_cast<double>(level.blocks)});

  const int threads = static_cast<int>(cpus.size());
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  std::vector<std::vector<std::vector<double>>> rates(threads, std::vector<std::vector<double>>(tasks.size()));
  pthread_barrier_t barrier;  // no thread begins a turn before all have come
  pthread_barrier_init(&barrier, nullptr, threads);
  auto work = [&](int index) {
    pin(cpus[index]);
    auto* data = static_cast<unsigned char*>(std::aligned_alloc(4096, (most * 512 + 4095) / 4096 * 4096));
    if (!data) fail("not enough memory for the bandwidth test");
    std::memset(data, 1, most * 512);
    // The first thread finds how many runs make a turn; clocks rise meanwhile.
    for (std::size_t t = 0; index == 0 && t < tasks.size(); ++t) {
      double spent = 0;
      for (tasks[t].count = 1; spent < kTurnSeconds; tasks[t].count *= 2) {
        const double start = seconds(clock);
        tasks[t].run(data, tasks[t].count);
        spent = seconds(clock) - start;
      }
      tasks[t].count /= 2;
    }
    for (int round = 0; round < kRounds; ++round) {
      for (std::size_t t = 0; t < tasks.size(); ++t) {
        pthread_barrier_wait(&barrier);
        const double start = seconds(clock);
        tasks[t].run(data, tasks[t].count);
        const double spent = seconds(clock) - start;
        rates[index][t].push_back(tasks[t].amount * static_cast<double>(tasks[t].count) / spent * 1e-9);
      }
    }
    std::free(data);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& thread : others) thread.join();

  std::printf("{\"rounds\": %d, \"results\": [", kRounds);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const Task& task = tasks[t];
    std::printf(t ? ",\n" : "\n");
    if (task.form)
      std::printf(" {\"accumulation\": \"%s\", \"form\": \"%s\", \"isa\": \"%s\", ", task.form->accumulation,
                  task.form->name, task.form->isa);
    else
      std::printf(" {\"level\": \"%s\", \"bytes\": %ld, ", task.level->name.c_str(), task.level->blocks * 512);
    for (int round = 0; round < kRounds; ++round) {
      double sum = 0;
      for (int i = 0; i < threads; ++i) sum += rates[i][t][round];
      std::printf("%s%.3f", round ? ", " : "\"rates\": [", sum);
    }
    std::printf("]}");
  }
  std::printf("\n]}\n");
  return 0;
}
