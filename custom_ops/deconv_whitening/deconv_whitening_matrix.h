// Products of symmetric matrices on the register tiles: summed by tiles, changed element by element, and stored with
// their mirror image straight into the layouts of the operands of the next product.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_MATRIX_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_MATRIX_H_

#include "common/micro_kernel.h"
#include "deconv_whitening/deconv_whitening_steps.h"

namespace {

typedef EdgeconvDeconvWhiteningMatrix Matrix;

// One group's work on one thread.
struct Group {
  const EdgeconvDeconvWhiteningParams* params;
  const EdgeconvDeconvWhiteningPlan* plan;
  const void* x;  // the group's channels of the first image
  uint8_t* workspace;
  float* mean;    // (F)
  float* deconv;  // (F, F)
  uint8_t* scratch;

  template <typename T>
  T* at(int64_t place) const {
    return reinterpret_cast<T*>(workspace + place);
  }
  int32_t* offsets() const { return reinterpret_cast<int32_t*>(scratch); }
  template <typename T>
  T* scratch_after_offsets() const {
    return reinterpret_cast<T*>(scratch + divide_up(plan->tap_block * 4, 64) * 64);
  }
};

constexpr int64_t kColumns = kTileVectors * Simd::kLanes;
static_assert(kColumns % kRows == 0, "a square of kRows on the diagonal lies in one tile");
static_assert(Simd::kLanes % kRows == 0 || kRows % Simd::kLanes == 0, "whole vectors are whole squares");

struct Operands {
  const float* right;   // [tile of columns][rows][kColumns]
  const float* left;    // [tile of rows][rows][kRows]
  int64_t rows;         // that are there
  int64_t first, last;  // that are summed up
};

// Where the columns begin that are to be summed for rows from `row` on: whole vectors.
inline int64_t first_column(const TileTask& task, int64_t row) {
  const int64_t column = task.column_tile * kColumns;
  return task.whole ? column : larger(column, row / Simd::kLanes * Simd::kLanes);
}

// Sums left[k][row] * right[k][column] over k for the tiles of a task, which end at column `padded`. A tile's rows are
// kColumns apart, and tiles one below the other. `sums` is where the element at the task's first row and its tile of
// columns goes.
inline void sum_tiles(const Group& group, const TileTask& task, int64_t padded, const Operands& operands, float* sums,
                      bool overwrite) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  int32_t* const offsets = group.offsets();
  const int64_t column = task.column_tile * kColumns, end = smaller(column + kColumns, padded);
  const int64_t taps = operands.last - operands.first;
  const int64_t parts = larger(1, divide_up(taps, plan.tap_block)), part = divide_up(taps, parts);
  for (int64_t tap = 0; tap < part; ++tap) offsets[tap] = static_cast<int32_t>(tap * kColumns);
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t first = operands.first + i * part, last = smaller(operands.last, first + part);
    const float* const right = operands.right + task.column_tile * operands.rows * kColumns + first * kColumns;
    for (int64_t tile = task.first_row_tile; tile < task.last_row_tile; ++tile) {
      const int64_t from = first_column(task, tile * kRows);
      run_vectors<DotProduct, kRows>(
          {right + (from - column), offsets, operands.left + tile * operands.rows * kRows + first * kRows,
           last > first ? last - first : 0, sums + (tile - task.first_row_tile) * kRows * kColumns + (from - column),
           kColumns, overwrite && i == 0},
          static_cast<int>((end - from) / Simd::kLanes));
    }
  }
}

// Element (row, column) of a matrix of `rows` rows in the layout of the right operand.
template <typename T>
inline T* right_at(int64_t rows, T* right, int64_t row, int64_t column) {
  return right + column / kColumns * rows * kColumns + row * kColumns + column % kColumns;
}

// to[column][row] = from[row][column] for kRows rows that are kColumns apart, in whole vectors of columns.
inline void transpose(const float* from, int64_t columns, float* to) {
  for (int64_t c = 0; c < columns; c += Simd::kLanes, to += kRows * Simd::kLanes) {
    Simd::Float rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = Simd::load(from + r * kColumns + c);
    // Each pass interleaves the first half of what there is with the second.
#pragma GCC unroll 4
    for (int pass = 1; pass < kRows; pass *= 2) {
      Simd::Float mixed[kRows];
      // Runs of `pass` vectors belong together.
#pragma GCC unroll 8
      for (int i = 0; i < kRows / 2; ++i)
        Simd::interleave(rows[i], rows[i + kRows / 2], &mixed[2 * i], &mixed[2 * i + 1]);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] = mixed[r];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) Simd::store(to + r * Simd::kLanes, rows[r]);
  }
}

// Where a matrix is to be stored; null where it is not wanted in that layout.
struct Target {
  float* right;
  float* left;
  float* mirror;  // as `left`, for the mirror image; where that is the same, `left`
  float* dense;   // (order, order)
};

// Stores kRows rows from `row` and `columns` columns from `column` (multiples of kRows, in one tile), and their mirror
// image. `values` are rows that are kColumns apart, and are read in whole vectors.
inline void put(const Matrix& matrix, const float* values, int64_t row, int64_t column, int64_t columns,
                const Target& target) {
  const int64_t squares = columns / kRows;
  alignas(64) float mirrored[(kColumns + Simd::kLanes) * kRows];
  transpose(values, columns, mirrored);
  if (target.right != nullptr) {
    float* to = right_at(matrix.padded, target.right, row, column);
    for (int r = 0; r < kRows; ++r, to += kColumns) {
      for (int64_t s = 0; s < squares; ++s) {
        RowSimd::store(to + s * kRows, RowSimd::load(values + r * kColumns + s * kRows));
      }
    }
    to = right_at(matrix.padded, target.right, column, row);
    for (int64_t c = 0; c < columns; ++c) RowSimd::store(to + c * kColumns, RowSimd::load(mirrored + c * kRows));
  }
  if (target.left != nullptr) {
    float* to = target.mirror + row * matrix.padded + column * kRows;
    for (int64_t c = 0; c < columns; ++c) RowSimd::store(to + c * kRows, RowSimd::load(mirrored + c * kRows));
    to = target.left + column * matrix.padded + row * kRows;
    for (int64_t s = 0; s < squares; ++s, to += kRows * matrix.padded) {
      for (int r = 0; r < kRows; ++r) {
        RowSimd::store(to + r * kRows, RowSimd::load(values + r * kColumns + s * kRows));
      }
    }
  }
  if (target.dense != nullptr) {
    const int64_t rows = smaller(kRows, matrix.order - row), count = smaller(columns, matrix.order - column);
    for (int64_t r = 0; r < rows; ++r) {
      float* const to = target.dense + (row + r) * matrix.order + column;
      for (int64_t c = 0; c < count; ++c) to[c] = values[r * kColumns + c];
    }
    for (int64_t c = 0; c < count; ++c) {
      float* const to = target.dense + (column + c) * matrix.order + row;
      for (int64_t r = 0; r < rows; ++r) to[r] = mirrored[c * kRows + r];
    }
  }
}

// A multiple of another matrix, in the layout of the right operand.
struct Term {
  const float* right;
  float factor;
};

// What becomes of each element: value * factor + terms + addend on the diagonal.
struct Change {
  float factor, addend;
  Term terms[2];  // the first may be absent alone with the second: null
};

// Changes kRows rows from `row` and `columns` columns from `column`, whose rows are kColumns apart. Unless the matrix
// is whole, a square on the diagonal becomes symmetric, whatever is below it.
inline void change(const Matrix& matrix, float* values, int64_t row, int64_t column, int64_t columns, const Change& by,
                   bool whole = false) {
  const Simd::Float factor = Simd::set(by.factor);
  for (int r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < columns; c += Simd::kLanes) {
      float* const at = values + r * kColumns + c;
      Simd::store(at, Simd::mul(Simd::load(at), factor));
    }
  }
  for (const Term& term : by.terms) {
    if (term.right == nullptr) break;
    const RowSimd::Float by_term = RowSimd::set(term.factor);
    const float* const from = right_at(matrix.padded, term.right, row, column);
    for (int r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < columns; c += kRows) {
        float* const at = values + r * kColumns + c;
        RowSimd::store(at, RowSimd::fma(RowSimd::load(from + r * kColumns + c), by_term, RowSimd::load(at)));
      }
    }
  }
  if (row < column || row >= column + columns) return;
  float* const square = values + (row - column);
  for (int64_t r = 0; r < kRows; ++r) {
    if (row + r < matrix.order) square[r * kColumns + r] += by.addend;
    if (whole) continue;
    for (int64_t c = 0; c < r; ++c) square[r * kColumns + c] = square[c * kColumns + r];
  }
}

// Room for kRows rows of a tile, and for vectors that begin before its end.
struct TileRows {
  alignas(64) float values[kRows * kColumns + Simd::kLanes];
};

// Copies kRows rows of a matrix in the layout of the right operand.
inline void copy_rows(const float* from, int64_t columns, float* to) {
  for (int r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < columns; c += kRows) {
      RowSimd::store(to + r * kColumns + c, RowSimd::load(from + r * kColumns + c));
    }
  }
}

// The tiles of one product, each changed and stored.
void multiply(const Group& group, const Matrix& matrix, const TileTask& task, const Operands& operands,
              const Change& by, const Target& target) {
  float* const sums = group.scratch_after_offsets<float>();
  sum_tiles(group, task, matrix.padded, operands, sums, true);
  const int64_t end = smaller((task.column_tile + 1) * kColumns, matrix.padded);
  for (int64_t tile = task.first_row_tile; tile < task.last_row_tile; ++tile) {
    const int64_t row = tile * kRows, first = task.column_tile * kColumns;
    const int64_t column = task.whole ? first : larger(row, first);
    const float* const values = sums + (tile - task.first_row_tile) * kRows * kColumns + (column - first);
    TileRows rows;
    copy_rows(values, end - column, rows.values);
    change(matrix, rows.values, row, column, end - column, by, task.whole);
    put(matrix, rows.values, row, column, end - column, target);
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_MATRIX_H_
