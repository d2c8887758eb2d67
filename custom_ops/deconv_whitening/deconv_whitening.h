// Network deconvolution's whitening (Ye et al., ICLR 2020, arXiv 1905.11926): mean and inverse square root of the
// covariance of an input's patches. Parameters, plan and launch functions of the CPU kernel: raw pointers, C linkage,
// no runtime. edgeconv/ops/deconv_whitening.py has the equations.
//
// The samples are P rows of F features, one set for each of G groups. The matrices on the way are symmetric: of each
// product the register tiles on and above the diagonal are computed, and mirrored as they are stored. From the sixth
// Newton-Schulz step on, one of three products is computed whole, because rounding errors are not symmetric.
//
// Few samples. Centred samples S (P, F) and the P x P matrix K = S S^T / P + eps I have the covariance's eigenvalues
// but for F - P of them, which are eps. What Newton-Schulz makes of an eigenvalue is a polynomial z of it (over the
// norm), the result therefore z(e) I + S^T d(K) S / P with e = eps, and d(k) = (z(k) - z(e)) / (k - e), which is a
// polynomial, too, and accumulated step by step by the product rule of such differences. Where that takes fewer
// multiply-adds, the root is taken of K.
//
// The work is a sequence of phases; the tasks of a phase are independent, and what they compute does not depend on who
// runs them. Where there are many groups, or little to do, there is one phase, and a task of it does a whole group.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_H_

#include "common/conv_shape.h"
#include "common/cpu_features.h"
#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

// As the node states them.
typedef struct EdgeconvDeconvWhiteningAttributes {
  EdgeconvConvAttributes window;
  int64_t block;  // channels
  int64_t n_iter;
  int64_t sampling_stride;
  int64_t centered;  // 1: the mean is subtracted before the covariance
  float eps;
} EdgeconvDeconvWhiteningAttributes;

typedef struct EdgeconvDeconvWhiteningParams {
  // The window at the sampled positions: its strides are sampling_stride * strides. Windows of one tap see a single row
  // of pixels, all of an image, without padding. out_channels is not used.
  EdgeconvConvShape shape;
  int64_t element_type;  // an EdgeconvElementType: float32 or float16
  int64_t features;      // F = block * kernel_height * kernel_width
  int64_t blocks;        // that share one covariance, interleaved: feature p of block q is column p * blocks + q
  int64_t positions;     // sampled, in all images; each gives `blocks` samples
  int64_t n_iter;
  int64_t centered;
  double eps;
} EdgeconvDeconvWhiteningParams;

// A symmetric matrix, cut into register tiles.
typedef struct EdgeconvDeconvWhiteningMatrix {
  int64_t order;   // rows and columns
  int64_t padded;  // the same, rounded up to whole vectors; zero beyond the order
  int64_t row_tiles, column_tiles;
  int64_t task_rows, tile_tasks;  // tiles of rows of a task, and tasks of a product
} EdgeconvDeconvWhiteningMatrix;

// Sizes that follow from the shape and the instruction set, and places in memory, in bytes from its beginning.
//
// A matrix is held as the right operand of a product, [tile of columns][row][column in the tile], or as the left one,
// [tile of rows][column][row in the tile], or as both.
typedef struct EdgeconvDeconvWhiteningPlan {
  int64_t tile_rows, tile_columns;         // of a register tile
  int64_t few_samples;                     // 1: the root is taken of the P x P matrix
  EdgeconvDeconvWhiteningMatrix full;      // F x F, the result
  EdgeconvDeconvWhiteningMatrix root;      // of which the root is taken: the same, or P x P
  int64_t sample_stride;                   // elements from one gathered sample to the next
  int64_t chunk_positions;                 // gathered at a time
  int64_t mean_positions, mean_tasks;      // positions that a task of the mean sums up
  int64_t keep;                            // 1: what the mean has gathered is kept for the covariance
  int64_t block_positions, sample_blocks;  // positions whose samples are packed at a time
  int64_t operand_rows;                    // of the samples as operands: what their products sum over
  int64_t slices;                          // of a block of samples, each with sums of its own
  int64_t tap_block;                       // rows of the right operand that fit into L1
  int64_t whole_groups;                    // 1: a task does all of a group
  int64_t group_steps;                     // phases of a group
  int64_t phases;
  // Of a group.
  int64_t scale, partial_sums, magnitudes, mean, norms;
  int64_t covariance;               // right operand, one a slice; later the second Y
  int64_t gathered, samples, left;  // samples, as gathered and as both operands; end when Newton-Schulz begins
  int64_t y, z[2], z_left[2], t_left, t_mirror;  // matrices of Newton-Schulz
  // With few samples only: d as both operands, its factor of the step as the left one; S^T as the left operand, and
  // d S as the right one.
  int64_t d, d_left, factor_left, features_left, d_samples;
  int64_t group_bytes;
  int64_t workspace_bytes;  // for all phases of a call
  int64_t scratch_bytes;    // for each thread
} EdgeconvDeconvWhiteningPlan;

typedef struct EdgeconvDeconvWhiteningArguments {
  const void* x;  // (N, C, H, W)
  void* workspace;
  float* mean;    // (G, F)
  float* deconv;  // (G, F, F)
} EdgeconvDeconvWhiteningArguments;

// What an instruction set brings. One such object a file.
typedef struct EdgeconvDeconvWhiteningIsa {
  int64_t lanes, tile_rows, tile_columns;
  void (*run)(const EdgeconvDeconvWhiteningParams* params, const EdgeconvDeconvWhiteningPlan* plan,
              const EdgeconvDeconvWhiteningArguments* arguments, int64_t phase, int64_t task, void* scratch);
} EdgeconvDeconvWhiteningIsa;

extern const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_baseline;
extern const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_avx2;
extern const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_avx512;
extern const EdgeconvDeconvWhiteningIsa edgeconv_deconv_whitening_neon;

#pragma GCC visibility push(default)

// Sets the defaults; block and window.kernel_shape, which have none, are 0.
void edgeconv_deconv_whitening_attributes_init(EdgeconvDeconvWhiteningAttributes* attributes);

// Checks what can be checked without X.
int edgeconv_deconv_whitening_check(const EdgeconvDeconvWhiteningAttributes* attributes, EdgeconvStatus* status);

// Checks attributes and X's shape against each other and sets `params`. An X without a sampled position is an error.
int edgeconv_deconv_whitening_params(const EdgeconvDeconvWhiteningAttributes* attributes, const int64_t* x_dims,
                                     size_t x_rank, int element_type, EdgeconvDeconvWhiteningParams* params,
                                     EdgeconvStatus* status);

// How the work is done on instruction set `isa`. Memory: seven matrices of F * F floats (eight for more than five
// steps), ten smaller ones with few samples, or samples where they need more (at most 8 MiB, or two operands of
// `tap_block` samples); once, or once a thread where a task does a whole group.
int edgeconv_deconv_whitening_plan(const EdgeconvDeconvWhiteningParams* params, int isa,
                                   EdgeconvDeconvWhiteningPlan* plan, EdgeconvStatus* status);

// Tasks of a phase, and how many of them are worth handing to a thread together.
void edgeconv_deconv_whitening_tasks(const EdgeconvDeconvWhiteningParams* params,
                                     const EdgeconvDeconvWhiteningPlan* plan, int64_t phase, int64_t* tasks,
                                     int64_t* tasks_per_call);

// Computes tasks [first, last) of a phase, on any thread and in any order; all of a phase before any of the next.
// Workspace and scratch should be aligned to 64 bytes.
//
// A NaN or an infinity in a sampled x makes all results of its group NaN; finite samples give finite results, unless
// eps is 0 and the covariance is.
void edgeconv_deconv_whitening_run(const EdgeconvDeconvWhiteningParams* params, int isa,
                                   const EdgeconvDeconvWhiteningPlan* plan,
                                   const EdgeconvDeconvWhiteningArguments* arguments, int64_t phase, int64_t first,
                                   int64_t last, void* scratch);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_H_
