// Whitening of one group, step by step, with the vector type Simd: included once by each file for an instruction set.
//
// Covariance and Newton-Schulz steps are products of symmetric matrices that commute (all are polynomials of the
// covariance), so each result is symmetric: tiles on and above the diagonal are summed, and stored with their mirror
// image straight into the layouts of the operands of the next product. T is the exception (is_whole_product).
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_KERNEL_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_KERNEL_H_

#include "deconv_whitening/deconv_whitening_samples.h"

namespace {

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

// Sums left[k][row] * right[k][column] over k for the tiles of a task. A tile's rows are `stride` apart, and tiles one
// below the other. `sums` is where the element at the task's first row and its tile of columns goes.
inline void sum_tiles(const Group& group, const TileTask& task, const Operands& operands, float* sums, bool overwrite) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  int32_t* const offsets = group.offsets();
  const int64_t column = task.column_tile * kColumns, end = smaller(column + kColumns, plan.padded);
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

// Element (row, column) of a matrix in the layout of the right operand.
inline float* right_at(const EdgeconvDeconvWhiteningPlan& plan, float* right, int64_t row, int64_t column) {
  return right + column / kColumns * plan.padded * kColumns + row * kColumns + column % kColumns;
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
  float* dense;   // (F, F)
};

// Stores kRows rows from `row` and `columns` columns from `column` (multiples of kRows, in one tile), and their mirror
// image. `values` are rows that are kColumns apart, and are read in whole vectors.
inline void put(const Group& group, const float* values, int64_t row, int64_t column, int64_t columns,
                const Target& target) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t squares = columns / kRows;
  alignas(64) float mirrored[(kColumns + Simd::kLanes) * kRows];
  transpose(values, columns, mirrored);
  if (target.right != nullptr) {
    float* to = right_at(plan, target.right, row, column);
    for (int r = 0; r < kRows; ++r, to += kColumns) {
      for (int64_t s = 0; s < squares; ++s) {
        RowSimd::store(to + s * kRows, RowSimd::load(values + r * kColumns + s * kRows));
      }
    }
    to = right_at(plan, target.right, column, row);
    for (int64_t c = 0; c < columns; ++c) RowSimd::store(to + c * kColumns, RowSimd::load(mirrored + c * kRows));
  }
  if (target.left != nullptr) {
    float* to = target.mirror + row * plan.padded + column * kRows;
    for (int64_t c = 0; c < columns; ++c) RowSimd::store(to + c * kRows, RowSimd::load(mirrored + c * kRows));
    to = target.left + column * plan.padded + row * kRows;
    for (int64_t s = 0; s < squares; ++s, to += kRows * plan.padded) {
      for (int r = 0; r < kRows; ++r) {
        RowSimd::store(to + r * kRows, RowSimd::load(values + r * kColumns + s * kRows));
      }
    }
  }
  if (target.dense != nullptr) {
    const int64_t features = group.params->features;
    const int64_t rows = smaller(kRows, features - row), count = smaller(columns, features - column);
    for (int64_t r = 0; r < rows; ++r) {
      float* const to = target.dense + (row + r) * features + column;
      for (int64_t c = 0; c < count; ++c) to[c] = values[r * kColumns + c];
    }
    for (int64_t c = 0; c < count; ++c) {
      float* const to = target.dense + (column + c) * features + row;
      for (int64_t r = 0; r < rows; ++r) to[r] = mirrored[c * kRows + r];
    }
  }
}

// What becomes of each element: value * factor + addend on the diagonal.
struct Change {
  float factor, addend;
};

// Changes kRows rows from `row` and `columns` columns from `column`, whose rows are kColumns apart. Unless the matrix
// is whole, a square on the diagonal becomes symmetric, whatever is below it.
inline void change(const Group& group, float* values, int64_t row, int64_t column, int64_t columns, Change by,
                   bool whole = false) {
  const Simd::Float factor = Simd::set(by.factor);
  for (int r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < columns; c += Simd::kLanes) {
      float* const at = values + r * kColumns + c;
      Simd::store(at, Simd::mul(Simd::load(at), factor));
    }
  }
  if (row < column || row >= column + columns) return;
  float* const square = values + (row - column);
  for (int64_t r = 0; r < kRows; ++r) {
    if (row + r < group.params->features) square[r * kColumns + r] += by.addend;
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
void multiply(const Group& group, const TileTask& task, const Operands& operands, Change by, const Target& target) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  float* const sums = group.scratch_after_offsets<float>();
  sum_tiles(group, task, operands, sums, true);
  const int64_t end = smaller((task.column_tile + 1) * kColumns, plan.padded);
  for (int64_t tile = task.first_row_tile; tile < task.last_row_tile; ++tile) {
    const int64_t row = tile * kRows, first = task.column_tile * kColumns;
    const int64_t column = task.whole ? first : larger(row, first);
    const float* const values = sums + (tile - task.first_row_tile) * kRows * kColumns + (column - first);
    TileRows rows;
    copy_rows(values, end - column, rows.values);
    change(group, rows.values, row, column, end - column, by, task.whole);
    put(group, rows.values, row, column, end - column, target);
  }
}

// Adds a block of samples to the covariance.
void add_covariance(const Group& group, int64_t block, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t slice = index / plan.tile_tasks;
  const int64_t samples = block_positions(*group.params, plan, block) * group.params->blocks;
  const int64_t share = divide_up(samples, plan.slices);
  const int64_t first = smaller(samples, slice * share);
  const TileTask task = tile_task(plan, index % plan.tile_tasks);
  float* const covariance = group.at<float>(plan.covariance) + slice * plan.column_tiles * kColumns * plan.padded;
  sum_tiles(group, task,
            {group.at<float>(plan.samples), group.at<float>(plan.left), plan.block_samples, first,
             smaller(samples, first + share)},
            right_at(plan, covariance, task.first_row_tile * kRows, task.column_tile * kColumns), block == 0);
}

inline double sum_of_squares(const float* values, int64_t count) {
  double sums[4] = {};
  for (int64_t i = 0; i < count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += static_cast<double>(values[i + j]) * static_cast<double>(values[i + j]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The covariance from the sums of its slices, for one tile of rows, and its part of the squared norm.
void normalize_rows(const Group& group, int64_t tile) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  float* const covariance = group.at<float>(plan.covariance);
  const int64_t row = tile * kRows, slice = plan.column_tiles * kColumns * plan.padded;
  const double scale = group.at<Scale>(plan.scale)->scale;
  const double samples = static_cast<double>(params.positions) * static_cast<double>(params.blocks);
  const Change by = {static_cast<float>(1.0 / samples), static_cast<float>(params.eps / scale / scale)};
  double squares = 0.0;
  for (int64_t column = row; column < plan.padded;) {
    const int64_t end = smaller((column / kColumns + 1) * kColumns, plan.padded), columns = end - column;
    float* const at = right_at(plan, covariance, row, column);
    TileRows sum;
    copy_rows(at, columns, sum.values);
    for (int64_t s = 1; s < plan.slices; ++s) {
      for (int r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < columns; ++c) sum.values[r * kColumns + c] += at[s * slice + r * kColumns + c];
      }
    }
    change(group, sum.values, row, column, columns, by);
    copy_rows(sum.values, columns, at);
    for (int r = 0; r < kRows; ++r) {
      const float* const values = sum.values + r * kColumns;
      const int64_t square = column == row ? kRows : 0;  // which holds its mirror image
      squares += sum_of_squares(values, square) + 2.0 * sum_of_squares(values + square, columns - square);
    }
    column = end;
  }
  group.at<double>(plan.norms)[tile] = squares;
}

double covariance_norm(const Group& group) {
  double squares = 0.0;
  for (int64_t tile = 0; tile < group.plan->row_tiles; ++tile) {
    squares += group.at<double>(group.plan->norms)[tile];
  }
  return __builtin_sqrt(squares);
}

// Of Z, to become the result.
inline float result_factor(const Group& group) {
  return static_cast<float>(1.0 / __builtin_sqrt(covariance_norm(group)) / group.at<Scale>(group.plan->scale)->scale);
}

// Y, T = (3 I - Y) / 2 and Z = T of the first Newton-Schulz step, for one tile of rows.
void start_rows(const Group& group, int64_t tile) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const int64_t row = tile * kRows;
  const float norm = static_cast<float>(1.0 / covariance_norm(group));
  for (int64_t column = row; column < plan.padded;) {
    const int64_t end = smaller((column / kColumns + 1) * kColumns, plan.padded), columns = end - column;
    TileRows rows;
    copy_rows(right_at(plan, group.at<float>(plan.covariance), row, column), columns, rows.values);
    change(group, rows.values, row, column, columns, {norm, 0.0f});
    if (params.n_iter > 1) {
      put(group, rows.values, row, column, columns, {group.at<float>(plan.y), nullptr, nullptr, nullptr});
    }
    change(group, rows.values, row, column, columns,
           params.n_iter > 0 ? Change{-0.5f, 1.5f} : Change{0.0f, 1.0f});  // no step: Z = I, NaN stays
    if (params.n_iter > 1) {
      float* const left = group.at<float>(plan.z_left[0]);
      put(group, rows.values, row, column, columns, {group.at<float>(plan.z[0]), left, left, nullptr});
    } else {
      change(group, rows.values, row, column, columns, {result_factor(group), 0.0f});
      put(group, rows.values, row, column, columns, {nullptr, nullptr, nullptr, group.deconv});
    }
    column = end;
  }
}

// A product of a Newton-Schulz step; Y and Z change places with their successors in each.
void run_product(const Group& group, const GroupStep& at, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const auto matrix = [&](int64_t place) { return group.at<float>(place); };
  const auto operands = [&](int64_t left, int64_t right) {
    return Operands{matrix(right), matrix(left), plan.padded, 0, group.params->features};
  };
  const int64_t y_places[2] = {plan.y, plan.covariance};
  const int64_t y = (at.index - 1) % 2, z = at.index % 2;  // step 1 reads Y from 0 and has made Z in 0
  const TileTask task = is_whole_product(at) ? whole_tile_task(plan, index) : tile_task(plan, index % plan.tile_tasks);
  const Change none = {1.0f, 0.0f};
  if (at.step == Step::kFirstY) {
    multiply(group, task, operands(plan.z_left[0], y_places[0]), none,
             {matrix(y_places[1]), nullptr, nullptr, nullptr});
  } else if (at.step == Step::kT) {
    // t_left gives T^T Y = (Y T)^T, t_mirror T Z: both symmetric.
    float* const left = matrix(plan.t_left);
    float* const mirror = task.whole ? matrix(plan.t_mirror) : left;
    multiply(group, task, operands(plan.z_left[z], y_places[y]), {-0.5f, 1.5f}, {nullptr, left, mirror, nullptr});
  } else if (index >= plan.tile_tasks) {
    multiply(group, task, operands(plan.t_left, y_places[y]), none,
             {matrix(y_places[1 - y]), nullptr, nullptr, nullptr});
  } else {
    const int64_t t_left = at.index > kSymmetricSteps ? plan.t_mirror : plan.t_left;
    if (at.index == group.params->n_iter) {
      multiply(group, task, operands(t_left, plan.z[z]), {result_factor(group), 0.0f},
               {nullptr, nullptr, nullptr, group.deconv});
    } else {
      float* const left = matrix(plan.z_left[1 - z]);
      multiply(group, task, operands(t_left, plan.z[z]), none, {matrix(plan.z[1 - z]), left, left, nullptr});
    }
  }
}

template <typename Element>
void run_step(const Group& group, const GroupStep& at, int64_t task) {
  switch (at.step) {
    case Step::kSum: return sum_part<Element>(group, task, 1.0f);
    case Step::kMean: return finish_mean<Element>(group);
    case Step::kPack: return pack_part<Element>(group, at.index, task);
    case Step::kCovariance: return add_covariance(group, at.index, task);
    case Step::kNormalize: return normalize_rows(group, task);
    case Step::kStart: return start_rows(group, task);
    default: return run_product(group, at, task);
  }
}

template <typename Element>
Group group_of(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
               const EdgeconvDeconvWhiteningArguments& arguments, int64_t index, uint8_t* workspace, uint8_t* scratch) {
  const EdgeconvConvShape& shape = params.shape;
  const int64_t channels = shape.in_channels / shape.group, features = params.features;
  const Element* x = static_cast<const Element*>(arguments.x);
  return {&params,
          &plan,
          x + index * channels * shape.in_height * shape.in_width,
          workspace,
          arguments.mean + index * features,
          arguments.deconv + index * features * features,
          scratch};
}

template <typename Element>
void run_task_of(const EdgeconvDeconvWhiteningParams& params, const EdgeconvDeconvWhiteningPlan& plan,
                 const EdgeconvDeconvWhiteningArguments& arguments, int64_t phase, int64_t task, uint8_t* scratch) {
  if (!plan.whole_groups) {
    const Group group = group_of<Element>(params, plan, arguments, phase / plan.group_steps,
                                          static_cast<uint8_t*>(arguments.workspace), scratch);
    return run_step<Element>(group, group_step(plan, phase % plan.group_steps), task);
  }
  const Group group = group_of<Element>(params, plan, arguments, task, scratch, scratch + plan.group_bytes);
  for (int64_t step = 0; step < plan.group_steps; ++step) {
    const GroupStep at = group_step(plan, step);
    const int64_t tasks = step_tasks(params, plan, at);
    for (int64_t i = 0; i < tasks; ++i) run_step<Element>(group, at, i);
  }
}

void run_task(const EdgeconvDeconvWhiteningParams* params, const EdgeconvDeconvWhiteningPlan* plan,
              const EdgeconvDeconvWhiteningArguments* arguments, int64_t phase, int64_t task, void* scratch) {
  uint8_t* const bytes = static_cast<uint8_t*>(scratch);
  if (params->element_type == EDGECONV_FLOAT16) {
    run_task_of<uint16_t>(*params, *plan, *arguments, phase, task, bytes);
  } else {
    run_task_of<float>(*params, *plan, *arguments, phase, task, bytes);
  }
}

}  // namespace

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_KERNEL_H_
