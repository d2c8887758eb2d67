#include "common/simt/matrix.h"

#include <cstring>

#include "common/float16.h"
#include "common/simt/block.h"

namespace simt {

namespace {

constexpr int kRows = 16, kColumns = 8;

template <typename Sum>
struct Operands {
  Sum* sums;
  const uint32_t *a, *b;
};

// A register of lane (group, member) holds kPack elements that follow each other along k. Registers of A: rows `group`
// and `group` + 8 take turns, and after two registers comes the other half of k. Registers of B: the halves of k; its
// column is `group`. Sums: two columns of row `group`, then of row `group` + 8.
template <int kPack, typename Element, typename Sum, typename UnpackA, typename UnpackB>
void multiply(const Lanes& lanes, const UnpackA& unpack_a, const UnpackB& unpack_b) {
  constexpr int kDepth = 8 * kPack;
  Element a[kRows][kDepth], b[kDepth][kColumns];
  for (int lane = 0; lane < 32; ++lane) {
    const Operands<Sum>& operands = lanes.operand<Operands<Sum>>(lane);
    const int group = lane / 4, member = lane % 4;
    for (int part = 0; part < kPack; ++part) {
      for (int half = 0; half < 2; ++half) {
        const int k = half * 4 * kPack + member * kPack + part;
        a[group][k] = unpack_a(operands.a[2 * half], part);
        a[group + 8][k] = unpack_a(operands.a[2 * half + 1], part);
        b[k][group] = unpack_b(operands.b[half], part);
      }
    }
  }
  Sum sums[kRows][kColumns] = {};
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) {
        sums[row][column] += static_cast<Sum>(a[row][k]) * static_cast<Sum>(b[k][column]);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    Sum* const to = lanes.operand<Operands<Sum>>(lane).sums;
    for (int i = 0; i < 4; ++i) to[i] += sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

void multiply_f16(const Lanes& lanes) {
  const auto unpack = [](uint32_t word, int part) { return half_to_float(static_cast<uint16_t>(word >> (16 * part))); };
  multiply<2, float, float>(lanes, unpack, unpack);
}

void multiply_tf32(const Lanes& lanes) {
  // The unit takes sign, exponent and ten bits; kernels round before (round_to_tf32).
  const auto unpack = [](uint32_t word, int) { return float_from_bits(word & 0xffffe000u); };
  multiply<1, float, float>(lanes, unpack, unpack);
}

template <typename A, typename B>
void multiply_int8(const Lanes& lanes) {
  // Unsigned sums: the unit wraps around.
  const auto unpack_a = [](uint32_t word, int part) {
    return static_cast<int32_t>(static_cast<A>(word >> (8 * part)));
  };
  const auto unpack_b = [](uint32_t word, int part) {
    return static_cast<int32_t>(static_cast<B>(word >> (8 * part)));
  };
  multiply<4, int32_t, uint32_t>(lanes, unpack_a, unpack_b);
}

constexpr Operation kMmaF16 = {"mma.m16n8k16.f16", true, multiply_f16};
constexpr Operation kMmaTf32 = {"mma.m16n8k8.tf32", true, multiply_tf32};
constexpr Operation kMmaInt8[2][2] = {
    {{"mma.m16n8k32.u8.u8", true, multiply_int8<uint8_t, uint8_t>},
     {"mma.m16n8k32.u8.s8", true, multiply_int8<uint8_t, int8_t>}},
    {{"mma.m16n8k32.s8.u8", true, multiply_int8<int8_t, uint8_t>},
     {"mma.m16n8k32.s8.s8", true, multiply_int8<int8_t, int8_t>}},
};

struct MatrixRow {
  const void* address;
};

template <int kMatrices, bool kTransposed>
void load_matrices(const Lanes& lanes) {
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* const address = lanes.operand<MatrixRow>(8 * matrix + row).address;
      if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        fail(cudaErrorMisalignedAddress, "ldmatrix: the address of lane %d is not a multiple of 16", 8 * matrix + row);
      }
      if (!runner->shared().holds(address, 16)) {
        fail(cudaErrorIllegalAddress, "ldmatrix: the row of lane %d is not all in one array of shared memory",
             8 * matrix + row);
      }
      note_access(address, 16, Access::kRead);
      std::memcpy(elements[row], address, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint32_t low = kTransposed ? elements[column][row] : elements[row][column];
      const uint32_t high = kTransposed ? elements[column + 1][row] : elements[row][column + 1];
      lanes.result<uint32_t[kMatrices]>(lane)[matrix] = low | high << 16;
    }
  }
}

constexpr Operation kLdmatrix[2][2] = {
    {{"ldmatrix.x2", true, load_matrices<2, false>}, {"ldmatrix.x2.trans", true, load_matrices<2, true>}},
    {{"ldmatrix.x4", true, load_matrices<4, false>}, {"ldmatrix.x4.trans", true, load_matrices<4, true>}},
};

template <typename Sum>
void mma(const Operation& operation, Sum* sums, const uint32_t* a, const uint32_t* b, Where where) {
  const Operands<Sum> operands = {sums, a, b};
  meet(operation, kFullMask, &operands, nullptr, where);
}

}  // namespace

void mma_f16(float* sums, const uint32_t* a, const uint32_t* b, Where where) { mma(kMmaF16, sums, a, b, where); }

void mma_tf32(float* sums, const uint32_t* a, const uint32_t* b, Where where) { mma(kMmaTf32, sums, a, b, where); }

void mma_int8(int32_t* sums, const uint32_t* a, const uint32_t* b, bool a_signed, bool b_signed, Where where) {
  mma(kMmaInt8[a_signed][b_signed], reinterpret_cast<uint32_t*>(sums), a, b, where);
}

void ldmatrix(uint32_t* to, const void* row, int matrices, bool transposed, Where where) {
  const MatrixRow operand = {row};
  meet(kLdmatrix[matrices == 4][transposed], kFullMask, &operand, to, where);
}

}  // namespace simt
