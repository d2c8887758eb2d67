// Warp matrix instructions, one at a time. Elements are gathered and scattered by the formulas of the PTX ISA ("Matrix
// Fragments for mma.m16n8k8, m16n8k16, m16n8k32"), written out here once more: element i of a lane's fragment.
#include <string.h>

#include "common/cuda_device.h"

namespace {

// For p elements in a register: 2 (float16), 1 (TF32) or 4 (bytes).
__device__ int a_row(int p, int lane, int i) { return lane / 4 + (i / p % 2 == 0 ? 0 : 8); }
__device__ int a_column(int p, int lane, int i) { return lane % 4 * p + i % p + (i < 2 * p ? 0 : 4 * p); }
__device__ int b_row(int p, int lane, int i) { return lane % 4 * p + i % p + (i < p ? 0 : 4 * p); }
__device__ int c_row(int lane, int i) { return lane / 4 + (i < 2 ? 0 : 8); }
__device__ int c_column(int lane, int i) { return lane % 4 * 2 + i % 2; }

struct F16 {
  using A = __half;
  using B = __half;
  using Sum = float;
  static __device__ void run(Sum (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(sums, a, b);
  }
};

struct Tf32 {
  using A = float;
  using B = float;
  using Sum = float;
  static __device__ void run(Sum (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t a_rounded[4], b_rounded[2];
    for (int i = 0; i < 4; ++i) a_rounded[i] = round_to_tf32(__uint_as_float(a[i]));
    for (int i = 0; i < 2; ++i) b_rounded[i] = round_to_tf32(__uint_as_float(b[i]));
    mma_m16n8k8_tf32(sums, a_rounded, b_rounded);
  }
};

template <typename Left, typename Right>
struct Int8 {
  using A = Left;
  using B = Right;
  using Sum = int32_t;
  static __device__ void run(Sum (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k32<A, B>(sums, a, b);
  }
};

// c += a * b, row by row: a [16][k], b [k][8], c [16][8]. `swap` exchanges two registers of A: a wrong fragment.
template <typename Type>
__global__ void multiply(const typename Type::A* a, const typename Type::B* b, typename Type::Sum* c, bool swap) {
  constexpr int p = 4 / sizeof(typename Type::A), k = 8 * p;
  const int lane = threadIdx.x;
  typename Type::A a_elements[4 * p];
  typename Type::B b_elements[2 * p];
  for (int i = 0; i < 4 * p; ++i) a_elements[i] = a[a_row(p, lane, i) * k + a_column(p, lane, i)];
  for (int i = 0; i < 2 * p; ++i) b_elements[i] = b[b_row(p, lane, i) * 8 + lane / 4];
  uint32_t a_registers[4], b_registers[2];
  memcpy(a_registers, a_elements, sizeof(a_registers));
  memcpy(b_registers, b_elements, sizeof(b_registers));
  if (swap) {
    const uint32_t kept = a_registers[1];
    a_registers[1] = a_registers[2];
    a_registers[2] = kept;
  }
  typename Type::Sum sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = c[c_row(lane, i) * 8 + c_column(lane, i)];
  Type::run(sums, a_registers, b_registers);
  for (int i = 0; i < 4; ++i) c[c_row(lane, i) * 8 + c_column(lane, i)] = sums[i];
}

template <typename Type>
int run(const void* a, const void* b, void* c, int swap) {
  return EDGECONV_LAUNCH(multiply<Type>, dim3(1), dim3(32), 0, nullptr, static_cast<const typename Type::A*>(a),
                         static_cast<const typename Type::B*>(b), static_cast<typename Type::Sum*>(c), swap != 0);
}

constexpr int kMatrixPitch = 24;  // elements from row to row: on 16 bytes, and not contiguous

// Matrices from [matrices][8][8], and what each lane gets: [32][matrices][2].
template <int kMatrices, bool kTransposed>
__global__ void load(const uint16_t* from, uint16_t* to) {
  EDGECONV_SHARED(uint16_t, rows, [kMatrices * 8][kMatrixPitch]);
  const int lane = threadIdx.x;
  // Matrices lie in the opposite order.
  const auto place = [&](int row) { return rows[kMatrices * 8 - 1 - row]; };
  if (lane < kMatrices * 8) {
    for (int i = 0; i < 8; ++i) place(lane)[i] = from[lane * 8 + i];
  }
  __syncwarp();
  uint32_t registers[kMatrices];
  // Of x2, the addresses of lanes from 16 on do not count.
  const void* const row = lane < kMatrices * 8 ? place(lane) : nullptr;
  if constexpr (kMatrices == 4 && kTransposed) {
    ldmatrix_x4_trans(registers, row);
  } else if constexpr (kMatrices == 4) {
    ldmatrix_x4(registers, row);
  } else if constexpr (kTransposed) {
    ldmatrix_x2_trans(registers, row);
  } else {
    ldmatrix_x2(registers, row);
  }
  memcpy(to + lane * kMatrices * 2, registers, sizeof(registers));
}

}  // namespace

extern "C" int mma_f16(const void* a, const void* b, void* c, int swap) { return run<F16>(a, b, c, swap); }
extern "C" int mma_tf32(const void* a, const void* b, void* c, int swap) { return run<Tf32>(a, b, c, swap); }
extern "C" int mma_s8s8(const void* a, const void* b, void* c, int swap) {
  return run<Int8<int8_t, int8_t>>(a, b, c, swap);
}
extern "C" int mma_s8u8(const void* a, const void* b, void* c, int swap) {
  return run<Int8<int8_t, uint8_t>>(a, b, c, swap);
}
extern "C" int mma_u8s8(const void* a, const void* b, void* c, int swap) {
  return run<Int8<uint8_t, int8_t>>(a, b, c, swap);
}
extern "C" int mma_u8u8(const void* a, const void* b, void* c, int swap) {
  return run<Int8<uint8_t, uint8_t>>(a, b, c, swap);
}

extern "C" int load_matrices(const uint16_t* from, uint16_t* to, int matrices, int transposed) {
  const auto kernel =
      matrices == 4 ? (transposed ? load<4, true> : load<4, false>) : (transposed ? load<2, true> : load<2, false>);
  return EDGECONV_LAUNCH(kernel, dim3(1), dim3(32), 0, nullptr, from, to);
}
