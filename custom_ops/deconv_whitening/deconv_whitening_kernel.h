// Whitening of one group, step by step, with the vector type Simd: included once by each file for an instruction set.
//
// Covariance and Newton-Schulz steps are products of symmetric matrices that commute (all are polynomials of the
// covariance), so each result is symmetric: tiles on and above the diagonal are summed, and stored with their mirror
// image straight into the layouts of the operands of the next product. T is the exception (is_whole_product).
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_KERNEL_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_KERNEL_H_

#include "deconv_whitening/deconv_whitening_samples.h"

namespace {

inline Operands matrices(const Group& group, int64_t left, int64_t right) {
  const Matrix& root = group.plan->root;
  return {group.at<float>(right), group.at<float>(left), root.padded, 0, root.order};
}

// Adds a block of samples to the covariance.
void add_covariance(const Group& group, int64_t block, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Matrix& root = plan.root;
  const int64_t slice = index / root.tile_tasks;
  const int64_t products =
      plan.few_samples ? plan.operand_rows : block_positions(*group.params, plan, block) * group.params->blocks;
  const int64_t share = divide_up(products, plan.slices);
  const int64_t first = smaller(products, slice * share);
  const TileTask task = tile_task(plan, root, index % root.tile_tasks);
  float* const covariance = group.at<float>(plan.covariance) + slice * root.column_tiles * kColumns * root.padded;
  sum_tiles(group, task, root.padded,
            {group.at<float>(plan.samples), group.at<float>(plan.left), plan.operand_rows, first,
             smaller(products, first + share)},
            right_at(root.padded, covariance, task.first_row_tile * kRows, task.column_tile * kColumns), block == 0);
}

inline double sum_of_squares(const float* values, int64_t count) {
  double sums[4] = {};
  for (int64_t i = 0; i < count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += static_cast<double>(values[i + j]) * static_cast<double>(values[i + j]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

inline double sample_count(const Group& group) {
  return static_cast<double>(group.params->positions) * static_cast<double>(group.params->blocks);
}

// In units of the scale.
inline double scaled_eps(const Group& group) {
  const double scale = group.at<Scale>(group.plan->scale)->scale;
  return group.params->eps / scale / scale;
}

// The covariance from the sums of its slices, for one tile of rows, and its part of the squared norm.
void normalize_rows(const Group& group, int64_t tile) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Matrix& root = plan.root;
  float* const covariance = group.at<float>(plan.covariance);
  const int64_t row = tile * kRows, slice = root.column_tiles * kColumns * root.padded;
  const Change by = {static_cast<float>(1.0 / sample_count(group)), static_cast<float>(scaled_eps(group)), {}};
  double squares = 0.0;
  for (int64_t column = row; column < root.padded;) {
    const int64_t end = smaller((column / kColumns + 1) * kColumns, root.padded), columns = end - column;
    float* const at = right_at(root.padded, covariance, row, column);
    TileRows sum;
    copy_rows(at, columns, sum.values);
    for (int64_t s = 1; s < plan.slices; ++s) {
      for (int r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < columns; ++c) sum.values[r * kColumns + c] += at[s * slice + r * kColumns + c];
      }
    }
    change(root, sum.values, row, column, columns, by);
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

// Of the features' covariance: eigenvalues that few samples do not have are eps.
double covariance_norm(const Group& group) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const double eps = scaled_eps(group);
  double squares = static_cast<double>(plan.full.order - plan.root.order) * eps * eps;
  for (int64_t tile = 0; tile < plan.root.row_tiles; ++tile) squares += group.at<double>(plan.norms)[tile];
  return __builtin_sqrt(squares);
}

// Of Z, to become the result.
inline float result_factor(const Group& group) {
  return static_cast<float>(1.0 / __builtin_sqrt(covariance_norm(group)) / group.at<Scale>(group.plan->scale)->scale);
}

// What Newton-Schulz makes of the eigenvalue eps: Z before step `step`, and T of that step.
struct Eigenvalue {
  double e, z, t;
};

inline Eigenvalue eps_before(const Group& group, int64_t step) {
  const double e = scaled_eps(group) / covariance_norm(group);
  double y = e, z = 1.0;
  for (int64_t i = 1;; ++i) {
    const double t = (3.0 - z * y) / 2.0;
    if (i == step) return {e, z, t};
    y *= t;
    z *= t;
  }
}

// Y, T = (3 I - Y) / 2 and Z = T of the first Newton-Schulz step, for one tile of rows.
void start_rows(const Group& group, int64_t tile) {
  const EdgeconvDeconvWhiteningParams& params = *group.params;
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Matrix& root = plan.root;
  const int64_t row = tile * kRows;
  const float norm = static_cast<float>(1.0 / covariance_norm(group));
  for (int64_t column = row; column < root.padded;) {
    const int64_t end = smaller((column / kColumns + 1) * kColumns, root.padded), columns = end - column;
    TileRows rows;
    copy_rows(right_at(root.padded, group.at<float>(plan.covariance), row, column), columns, rows.values);
    change(root, rows.values, row, column, columns, {norm, 0.0f, {}});
    if (params.n_iter > 1) {
      put(root, rows.values, row, column, columns, {group.at<float>(plan.y), nullptr, nullptr, nullptr});
    }
    change(root, rows.values, row, column, columns,
           params.n_iter > 0 ? Change{-0.5f, 1.5f, {}} : Change{0.0f, 1.0f, {}});  // no step: Z = I, NaN stays
    if (params.n_iter > 1) {
      float* const left = group.at<float>(plan.z_left[0]);
      put(root, rows.values, row, column, columns, {group.at<float>(plan.z[0]), left, left, nullptr});
    } else {
      change(root, rows.values, row, column, columns, {result_factor(group), 0.0f, {}});
      put(root, rows.values, row, column, columns, {nullptr, nullptr, nullptr, group.deconv});
    }
    column = end;
  }
}

// Few samples: the differences over (k - e) of T and of Z = T Z, by the product rule: where z(k) - z(e) = d (k - e),
// that of t = (3 - z y) / 2 with y = k z is f = -(d y + z(e) (z + e d)) / 2, and that of t z is f z + t(e) d. The first
// step makes d = -1/2, which is never stored.
void run_difference(const Group& group, const GroupStep& at, const TileTask& task) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Eigenvalue eps = eps_before(group, at.index);
  const float* const y = group.at<float>(at.index % 2 == 0 ? plan.covariance : plan.y);
  const int64_t z = plan.z[at.index % 2];
  float* const d = group.at<float>(plan.d);
  if (at.step == Step::kT) {
    Operands operands = matrices(group, plan.d_left, at.index % 2 == 0 ? plan.covariance : plan.y);
    Change by = {-0.5f, 0.0f, {{group.at<float>(z), static_cast<float>(-0.5 * eps.z)}}};
    if (at.index == 2) {
      operands.last = 0;
      by.terms[1] = {y, 0.25f};
      by.addend = static_cast<float>(0.25 * eps.z * eps.e);
    } else {
      by.terms[1] = {d, static_cast<float>(-0.5 * eps.z * eps.e)};
    }
    float* const left = group.at<float>(plan.factor_left);
    multiply(group, plan.root, task, operands, by, {nullptr, left, left, nullptr});
  } else {
    Change by = {1.0f, 0.0f, {}};
    if (at.index == 2) {
      by.addend = static_cast<float>(-0.5 * eps.t);
    } else {
      by.terms[0] = {d, static_cast<float>(eps.t)};
    }
    float* const left = at.index < group.params->n_iter ? group.at<float>(plan.d_left) : nullptr;
    multiply(group, plan.root, task, matrices(group, plan.factor_left, z), by, {d, left, left, nullptr});
  }
}

// Few samples: S^T d, stored mirrored, which is d S as the right operand.
void spread(const Group& group, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const TileTask task = whole_tile_task(plan.full, index);
  float* const sums = group.scratch_after_offsets<float>();
  sum_tiles(group, task, plan.root.padded, matrices(group, plan.features_left, plan.d), sums, true);
  const int64_t first = task.column_tile * kColumns, end = smaller(first + kColumns, plan.root.padded);
  for (int64_t tile = task.first_row_tile; tile < task.last_row_tile; ++tile) {
    alignas(64) float columns[kColumns * kRows];
    transpose(sums + (tile - task.first_row_tile) * kRows * kColumns, end - first, columns);
    float* const to = right_at(plan.root.padded, group.at<float>(plan.d_samples), first, tile * kRows);
    for (int64_t c = 0; c < end - first; ++c) {
      RowSimd::store(to + c * kColumns, RowSimd::load(columns + c * kRows));
    }
  }
}

// Few samples: z(e) I + S^T d S / P.
void finish_few_samples(const Group& group, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const double factor = static_cast<double>(result_factor(group));
  const double share = factor / (sample_count(group) * covariance_norm(group));
  const double z = eps_before(group, group.params->n_iter + 1).z;
  multiply(group, plan.full, tile_task(plan, plan.full, index), matrices(group, plan.features_left, plan.d_samples),
           {static_cast<float>(share), static_cast<float>(z * factor), {}}, {nullptr, nullptr, nullptr, group.deconv});
}

// A product of a Newton-Schulz step; Y and Z change places with their successors in each.
void run_product(const Group& group, const GroupStep& at, int64_t index) {
  const EdgeconvDeconvWhiteningPlan& plan = *group.plan;
  const Matrix& root = plan.root;
  const int64_t y_places[2] = {plan.y, plan.covariance};
  const int64_t y = (at.index - 1) % 2, z = at.index % 2;  // step 1 reads Y from 0 and has made Z in 0
  const Change none = {1.0f, 0.0f, {}};
  if (is_whole_product(at)) {
    // t_left gives T^T Y = (Y T)^T, t_mirror T Z: both symmetric.
    return multiply(group, root, whole_tile_task(root, index), matrices(group, plan.z_left[z], y_places[y]),
                    {-0.5f, 1.5f, {}},
                    {nullptr, group.at<float>(plan.t_left), group.at<float>(plan.t_mirror), nullptr});
  }
  const TileTask task = tile_task(plan, root, index % root.tile_tasks);
  int64_t product = index / root.tile_tasks;
  if (plan.few_samples && at.step != Step::kFirstY && product-- == 0) return run_difference(group, at, task);
  if (at.step == Step::kFirstY) {
    multiply(group, root, task, matrices(group, plan.z_left[0], y_places[0]), none,
             {group.at<float>(y_places[1]), nullptr, nullptr, nullptr});
  } else if (at.step == Step::kT) {
    float* const left = group.at<float>(plan.t_left);
    multiply(group, root, task, matrices(group, plan.z_left[z], y_places[y]), {-0.5f, 1.5f, {}},
             {nullptr, left, left, nullptr});
  } else if (product == 1) {
    multiply(group, root, task, matrices(group, plan.t_left, y_places[y]), none,
             {group.at<float>(y_places[1 - y]), nullptr, nullptr, nullptr});
  } else {
    const Operands operands = matrices(group, at.index > kSymmetricSteps ? plan.t_mirror : plan.t_left, plan.z[z]);
    if (at.index == group.params->n_iter) {
      multiply(group, root, task, operands, {result_factor(group), 0.0f, {}},
               {nullptr, nullptr, nullptr, group.deconv});
    } else {
      float* const left = group.at<float>(plan.z_left[1 - z]);
      multiply(group, root, task, operands, none, {group.at<float>(plan.z[1 - z]), left, left, nullptr});
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
    case Step::kSpread: return spread(group, task);
    case Step::kResult: return finish_few_samples(group, task);
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
