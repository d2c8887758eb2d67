// The phases of a group in their order, and the tasks of each. Known to the plan and to the kernels.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_STEPS_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_STEPS_H_

#include "deconv_whitening/deconv_whitening.h"

namespace {

enum class Step {
  kSum,         // of the samples, by parts
  kMean,        // of all, and the scale
  kPack,        // a block of samples: centred, scaled, as operands
  kCovariance,  // its products are added
  kNormalize,   // the covariance is complete; its norm, by rows of tiles
  kStart,       // Y = Cov / norm, T = (3 I - Y) / 2, Z = T
  kFirstY,      // Y T; Z is I before
  kT,           // (3 I - Z Y) / 2; with few samples T's difference, too
  kYAndZ,       // Y T and T Z; the last time, T Z alone. With few samples Z's difference, too; the last time, alone
  kSpread,      // few samples: S^T d
  kResult,      // few samples: S^T d S
};

struct GroupStep {
  Step step;
  int64_t index;  // of the block of samples, or of the Newton-Schulz step (from 1)
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t group_step_count(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan) {
  const int64_t products = params.n_iter < 2 ? 0 : 1 + 2 * (params.n_iter - 1);
  return 2 + 2 * plan.sample_blocks + 2 + products + (plan.few_samples ? 2 : 0);
}

inline GroupStep group_step(const EdgeconvDeconvWhiteningPlan& plan, int64_t index) {
  if (plan.few_samples && index >= plan.group_steps - 2) {
    return {index == plan.group_steps - 2 ? Step::kSpread : Step::kResult, 0};
  }
  if (index < 2) return {index == 0 ? Step::kSum : Step::kMean, 0};
  index -= 2;
  if (index < 2 * plan.sample_blocks) return {index % 2 == 0 ? Step::kPack : Step::kCovariance, index / 2};
  index -= 2 * plan.sample_blocks;
  if (index < 3) return {index == 0 ? Step::kNormalize : index == 1 ? Step::kStart : Step::kFirstY, 1};
  index -= 3;
  return {index % 2 == 0 ? Step::kT : Step::kYAndZ, 2 + index / 2};
}

// Newton-Schulz steps whose T is taken for symmetric. T = (3 I - Z Y) / 2 is, but for rounding errors in Y and Z, which
// need not commute with the covariance; the iteration is stable because T, as it is, takes them back. With half of it
// mirrored, errors grow by up to the square root of the condition once Y and Z are near their limits, and by little
// before: a step cannot bring eigenvalues nearer than by 9/4.
constexpr int64_t kSymmetricSteps = 5;

inline bool is_whole_product(const GroupStep& at) { return at.step == Step::kT && at.index > kSymmetricSteps; }

// Positions of a block of samples.
inline int64_t block_positions(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
                               int64_t block) {
  return smaller(plan.block_positions, params.positions - block * plan.block_positions);
}

// Products of one step: (3 I - Z Y) / 2, Y T, T Z, and with few samples the differences.
inline int64_t step_products(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
                             const GroupStep& at) {
  const bool last = at.index == params.n_iter;
  if (at.step == Step::kT) return !plan.few_samples || last ? 1 : 2;
  return (last ? 0 : 2) + (plan.few_samples || last ? 1 : 0);
}

inline int64_t step_tasks(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
                          const GroupStep& at) {
  const auto whole = [&](const EdgeconvDeconvWhiteningMatrix& columns, const EdgeconvDeconvWhiteningMatrix& rows) {
    return columns.column_tiles * divide_up(rows.row_tiles, rows.task_rows);
  };
  switch (at.step) {
    case Step::kSum: return plan.mean_tasks;
    case Step::kMean: return 1;
    case Step::kPack: return divide_up(block_positions(params, plan, at.index), plan.chunk_positions);
    case Step::kCovariance: return plan.slices * plan.root.tile_tasks;
    case Step::kNormalize:
    case Step::kStart: return plan.root.row_tiles;
    case Step::kFirstY: return plan.root.tile_tasks;
    case Step::kT:
    case Step::kYAndZ:
      if (is_whole_product(at)) return whole(plan.root, plan.root);
      return step_products(params, plan, at) * plan.root.tile_tasks;
    case Step::kSpread: return whole(plan.root, plan.full);
    case Step::kResult: return plan.full.tile_tasks;
  }
  return 0;
}

// Tiles of rows that a tile of columns has on and above the diagonal.
inline int64_t rows_above(const EdgeconvDeconvWhiteningPlan& plan, const EdgeconvDeconvWhiteningMatrix& matrix,
                          int64_t column_tile) {
  return smaller(matrix.row_tiles, divide_up((column_tile + 1) * plan.tile_columns, plan.tile_rows));
}

// Some tiles of rows of a tile of columns: all of them, or those on and above the diagonal.
struct TileTask {
  int64_t column_tile, first_row_tile, last_row_tile;
  bool whole;
};

// Of the upper triangle; the longest columns come first.
inline TileTask tile_task(const EdgeconvDeconvWhiteningPlan& plan, const EdgeconvDeconvWhiteningMatrix& matrix,
                          int64_t task) {
  for (int64_t column = matrix.column_tiles - 1; column >= 0; --column) {
    const int64_t rows = rows_above(plan, matrix, column), tasks = divide_up(rows, matrix.task_rows);
    if (task < tasks) {
      return {column, task * matrix.task_rows, smaller(rows, (task + 1) * matrix.task_rows), false};
    }
    task -= tasks;
  }
  return {0, 0, 0, false};
}

// Of a whole product, whose rows are those of a matrix.
inline TileTask whole_tile_task(const EdgeconvDeconvWhiteningMatrix& rows, int64_t task) {
  const int64_t parts = divide_up(rows.row_tiles, rows.task_rows), part = task % parts;
  return {task / parts, part * rows.task_rows, smaller(rows.row_tiles, (part + 1) * rows.task_rows), true};
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_STEPS_H_
