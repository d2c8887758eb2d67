// Launch functions: the plan, and the sequence of kernels. Those are in deconv_whitening_cuda_*.h.
#include "common/cuda_status.h"
#include "deconv_whitening/deconv_whitening_cuda.h"
#include "deconv_whitening/deconv_whitening_cuda_plan.h"

namespace {

// The sequence of kernels for some groups. The first error ends it.
struct Sequence {
  const EdgeconvDeconvWhiteningParams& params;
  const EdgeconvDeconvWhiteningCudaPlan& plan;
  const EdgeconvDeconvWhiteningArguments& arguments;
  cudaStream_t stream;
  EdgeconvStatus* status;
  unsigned first_group, groups;

  template <typename T>
  T* at(int64_t place) const {
    return reinterpret_cast<T*>(static_cast<char*>(arguments.workspace) + place);
  }
  Samples samples() const;
  PartialSums partial_sums() const;
  Root root() const;
  float* deconv() const { return arguments.deconv + first_group * params.features * params.features; }

  int sum(const void* x) const;
  int pack(const void* x, int64_t first) const;
  int add_covariance(int64_t first) const;
  int multiply_all(int32_t tile, const Product* products, int count, int splits = 1, int split_depth = 0) const;
  Product matrix_product(int64_t a, int64_t b, int64_t to) const;
  int step(int64_t index) const;
  int finish_few_samples() const;
  int run() const;
};

Samples Sequence::samples() const {
  const EdgeconvConvShape& shape = params.shape;
  const auto number = [](int64_t value) { return static_cast<int>(value); };
  const int64_t height = shape.in_height, width = shape.in_width, channels = shape.in_channels;
  const bool nchw = plan.format.layout == EDGECONV_NCHW;
  const int64_t pixel = nchw ? 1 : plan.format.x_channel_pitch, channel = nchw ? height * width : 1;
  Samples to = {};
  to.group_stride = number(channels / shape.group * channel);
  to.channel_stride = number(channel);
  to.row_stride = number(width * pixel);
  to.column_stride = number(pixel);
  to.image_stride = number(nchw ? channels * height * width : height * width * pixel);
  to.features = number(params.features);
  to.blocks = number(params.blocks);
  to.taps = number(shape.kernel_height * shape.kernel_width);
  to.kernel_width = number(shape.kernel_width);
  to.in_height = number(height);
  to.in_width = number(width);
  to.out_height = number(shape.out_height);
  to.out_width = number(shape.out_width);
  to.stride_height = number(shape.stride_height);
  to.stride_width = number(shape.stride_width);
  to.pad_top = number(shape.pad_top);
  to.pad_left = number(shape.pad_left);
  to.dilation_height = number(shape.dilation_height);
  to.dilation_width = number(shape.dilation_width);
  to.positions = number(params.positions);
  to.by_position = nchw;
  return to;
}

PartialSums Sequence::partial_sums() const {
  return {at<double>(plan.sums), at<float>(plan.least), at<float>(plan.largest), plan.sum_parts, plan.part_tiles};
}

Root Sequence::root() const {
  return {at<Scalars>(plan.scalars),
          at<double>(plan.norms),
          at<float>(plan.y[0]),
          at<float>(plan.partials),
          plan.splits,
          plan.norm_parts,
          plan.order,
          plan.pitch,
          static_cast<int>(params.features),
          static_cast<int>(params.n_iter),
          static_cast<double>(params.positions) * static_cast<double>(params.blocks),
          params.eps,
          plan.group_bytes};
}

int Sequence::sum(const void* x) const {
  const int64_t tiles = divide_up(params.features, kTileSide), partials = plan.sum_parts * params.blocks;
  const dim3 grid(static_cast<unsigned>(tiles * partials), 1, groups),
      features(static_cast<unsigned>(tiles), 1, groups);
  const bool half = params.element_type == EDGECONV_FLOAT16;
  const cudaError_t error = half ? EDGECONV_LAUNCH(sum_samples<__half>, grid, dim3(kThreads), 0, stream, samples(),
                                                   partial_sums(), static_cast<const __half*>(x), plan.group_bytes)
                                 : EDGECONV_LAUNCH(sum_samples<float>, grid, dim3(kThreads), 0, stream, samples(),
                                                   partial_sums(), static_cast<const float*>(x), plan.group_bytes);
  if (cuda_status(error, "the launch of the kernel for the mean", status) != EDGECONV_OK) return status->code;
  return cuda_status(
      EDGECONV_LAUNCH(finish_means, features, dim3(kThreads), 0, stream, partial_sums(), at<double>(plan.means),
                      at<Magnitudes>(plan.magnitudes), static_cast<int>(params.features), static_cast<int>(partials),
                      root().samples, plan.group_bytes),
      "the launch of the kernel for the mean", status);
}

int Sequence::pack(const void* x, int64_t first) const {
  const int64_t count = smaller(plan.chunk_positions, params.positions - first);
  const int64_t tiles = divide_up(params.features, kTileSide) * divide_up(count, kTileSide) * params.blocks;
  const Packed packed = {at<double>(plan.means),
                         at<Magnitudes>(plan.magnitudes),
                         at<Scalars>(plan.scalars),
                         at<float>(plan.rows),
                         plan.few_samples ? at<float>(plan.columns) : nullptr,
                         plan.feature_pitch,
                         plan.pitch,
                         static_cast<int>(first),
                         static_cast<int>(count),
                         static_cast<int>(params.centered)};
  const dim3 grid(static_cast<unsigned>(tiles), 1, groups);
  float* const mean = arguments.mean + first_group * params.features;
  const bool half = params.element_type == EDGECONV_FLOAT16;
  const cudaError_t error = half ? EDGECONV_LAUNCH(pack_samples<__half>, grid, dim3(kThreads), 0, stream, samples(),
                                                   packed, static_cast<const __half*>(x), mean, plan.group_bytes)
                                 : EDGECONV_LAUNCH(pack_samples<float>, grid, dim3(kThreads), 0, stream, samples(),
                                                   packed, static_cast<const float*>(x), mean, plan.group_bytes);
  return cuda_status(error, "the launch of the kernel that packs samples", status);
}

// Products of the same size, side by side; or one, with splits of its depth.
int Sequence::multiply_all(int32_t tile, const Product* products, int count, int splits, int split_depth) const {
  Products all = {};
  std::copy(products, products + count, all.products);
  all.splits = splits;
  all.split_depth = splits == 1 ? products->depth : split_depth;
  all.split_floats = int64_t{plan.order} * plan.pitch;
  all.scalars = at<Scalars>(plan.scalars);
  all.group_bytes = plan.group_bytes;
  const int64_t tiles = tile_count(products->rows, products->columns, products->symmetric, tile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(count * splits), groups);
  const auto kernel = tile == 128 ? multiply<128> : tile == 64 ? multiply<64> : multiply<32>;
  return cuda_status(EDGECONV_LAUNCH(kernel, grid, dim3(kThreads), 0, stream, all),
                     "the launch of the kernel for products", status);
}

// A symmetric product of matrices of which the root is taken.
Product Sequence::matrix_product(int64_t a, int64_t b, int64_t to) const {
  Product product = {};
  product.a = at<float>(a);
  product.b = at<float>(b);
  product.to = product.mirror = at<float>(to);
  product.factor = {1.0f, kOne};
  product.addend = {0.0f, kOne};
  product.rows = product.columns = product.depth = plan.order;
  product.a_pitch = product.b_pitch = product.to_pitch = plan.pitch;
  product.symmetric = 1;
  product.to_group_bytes = plan.group_bytes;
  return product;
}

// Adds the products of a chunk of samples.
int Sequence::add_covariance(int64_t first) const {
  const int64_t positions = smaller(plan.chunk_positions, params.positions - first);
  const int64_t operand = plan.few_samples ? plan.columns : plan.rows;
  Product product = matrix_product(operand, operand, plan.partials);
  product.depth = static_cast<int>(plan.few_samples ? params.features : positions * params.blocks);
  product.a_pitch = product.b_pitch = plan.few_samples ? plan.pitch : plan.feature_pitch;
  product.mirror = nullptr;
  if (first > 0) {
    product.terms[0] = product.to;
    product.term_factors[0] = {1.0f, kOne};
  }
  return multiply_all(plan.sample_tile, &product, 1, plan.splits,
                      static_cast<int>(divide_up(product.depth, plan.splits)));
}

// One Newton-Schulz step, from the second on; deconv_whitening_kernel.h has the differences of few samples.
int Sequence::step(int64_t index) const {
  const bool last = index == params.n_iter, whole = index > kSymmetricSteps;
  const int64_t y = plan.y[(index - 1) % 2], z = plan.z[index % 2];
  Product products[3];
  int count = 0;
  Product& t = products[count++];
  t = matrix_product(z, y, plan.t);
  t.factor.value = -0.5f;
  t.addend.value = 1.5f;
  if (whole) {
    t.symmetric = 0;
    t.mirror = at<float>(plan.t_mirror);
  }
  if (plan.few_samples) {
    Product& factor = products[count++];
    factor = matrix_product(plan.d, y, plan.factor);
    factor.factor.value = -0.5f;
    factor.terms[0] = at<float>(z);
    factor.term_factors[0] = {1.0f, step_value(index, 0)};
    if (index == 2) {  // d is -1/2 I
      factor.depth = 0;
      factor.terms[1] = at<float>(y);
      factor.term_factors[1] = {0.25f, kOne};
      factor.addend = {-0.5f, step_value(index, 1)};
    } else {
      factor.terms[1] = at<float>(plan.d);
      factor.term_factors[1] = {1.0f, step_value(index, 1)};
    }
    if (last) products[0] = products[--count];
  }
  if (multiply_all(whole ? plan.whole_tile : plan.root_tile, products, count) != EDGECONV_OK) return status->code;

  count = 0;
  if (plan.few_samples) {
    Product& d = products[count++];
    d = matrix_product(plan.factor, z, plan.d);
    if (index == 2) {
      d.addend = {-0.5f, step_value(index, 2)};
    } else {
      d.terms[0] = at<float>(plan.d);
      d.term_factors[0] = {1.0f, step_value(index, 2)};
    }
  }
  if (!last || !plan.few_samples)
    products[count++] = matrix_product(whole ? plan.t_mirror : plan.t, z, plan.z[1 - index % 2]);
  if (last && !plan.few_samples) {
    Product& result = products[count - 1];
    result.to = result.mirror = deconv();
    result.factor.of = kResult;
    result.to_pitch = static_cast<int>(params.features);
    result.to_group_bytes = params.features * params.features * 4;
  }
  if (!last) products[count++] = matrix_product(plan.t, y, plan.y[index % 2]);
  return multiply_all(plan.root_tile, products, count);
}

// z(e) I + S^T d S / P.
int Sequence::finish_few_samples() const {
  Product spread = matrix_product(plan.d, plan.rows, plan.d_samples);
  spread.columns = static_cast<int>(params.features);
  spread.b_pitch = spread.to_pitch = plan.feature_pitch;
  spread.mirror = nullptr;
  spread.symmetric = 0;
  if (multiply_all(plan.spread_tile, &spread, 1) != EDGECONV_OK) return status->code;
  Product result = matrix_product(plan.rows, plan.d_samples, 0);
  result.a_pitch = result.b_pitch = plan.feature_pitch;
  result.to = result.mirror = deconv();
  result.factor.of = kShare;
  result.addend = {1.0f, kDiagonal};
  result.rows = result.columns = result.to_pitch = static_cast<int>(params.features);
  result.to_group_bytes = params.features * params.features * 4;
  return multiply_all(plan.result_tile, &result, 1);
}

int Sequence::run() const {
  const int64_t element_bytes = params.element_type == EDGECONV_FLOAT16 ? 2 : 4;
  const void* const x =
      static_cast<const char*>(arguments.x) + int64_t{first_group} * samples().group_stride * element_bytes;
  if (sum(x) != EDGECONV_OK) return status->code;
  for (int64_t first = 0; first < params.positions; first += plan.chunk_positions) {
    if (pack(x, first) != EDGECONV_OK || add_covariance(first) != EDGECONV_OK) return status->code;
  }
  const dim3 parts(static_cast<unsigned>(plan.norm_parts), 1, groups);
  if (cuda_status(EDGECONV_LAUNCH(normalize, parts, dim3(kThreads), 0, stream, root()),
                  "the launch of the kernel for the norm", status) != EDGECONV_OK) {
    return status->code;
  }
  if (plan.small) {
    const int64_t bytes = small_bytes(plan);
    cudaError_t error = allow_dynamic_shared(whiten_small, bytes);
    if (error == cudaSuccess) {
      error = EDGECONV_LAUNCH(whiten_small, dim3(1, 1, groups), dim3(kSmallThreads), static_cast<size_t>(bytes), stream,
                              root(), deconv());
    }
    return cuda_status(error, "the launch of the kernel for small matrices", status);
  }
  if (cuda_status(EDGECONV_LAUNCH(start_root, parts, dim3(kThreads), 0, stream, root(), at<float>(plan.z[0]), deconv(),
                                  plan.few_samples),
                  "the launch of the kernel for the first step", status) != EDGECONV_OK) {
    return status->code;
  }
  if (params.n_iter < 2) return EDGECONV_OK;
  const Product first = matrix_product(plan.z[0], plan.y[0], plan.y[1]);
  if (multiply_all(plan.root_tile, &first, 1) != EDGECONV_OK) return status->code;
  for (int64_t index = 2; index <= params.n_iter; ++index) {
    if (step(index) != EDGECONV_OK) return status->code;
  }
  return plan.few_samples ? finish_few_samples() : EDGECONV_OK;
}

}  // namespace

extern "C" {

int edgeconv_deconv_whitening_cuda_plan(const EdgeconvDeconvWhiteningParams* params, const EdgeconvCudaFormat* format,
                                        const EdgeconvCudaDevice* device, EdgeconvDeconvWhiteningCudaPlan* plan,
                                        EdgeconvStatus* status) {
  if (check(*params, *format, status) != EDGECONV_OK) return status->code;
  *plan = {};
  plan->format = *format;
  const int64_t samples = params->positions * params->blocks, multiprocessors = larger(1, device->multiprocessors);
  plan->few_samples = has_few_samples(*params, samples);
  plan->order = static_cast<int32_t>(plan->few_samples ? samples : params->features);
  plan->pitch = static_cast<int32_t>(round_up(plan->order, 4));
  plan->feature_pitch = static_cast<int32_t>(round_up(params->features, 4));
  plan->small = params->n_iter > 1 && params->features <= kSmallFeatures &&
                small_bytes(*plan) + kStaticBytes <= device->shared_bytes;
  // As many groups as fit, by the least that one of them takes.
  plan->sum_parts = plan->splits = 1;
  plan->norm_parts = kMostNorms;
  plan->chunk_positions = static_cast<int32_t>(plan->few_samples ? params->positions : kTileSide);
  place(*params, plan);
  const int64_t groups = params->shape.group;
  plan->group_batch =
      static_cast<int32_t>(std::clamp<int64_t>(kGroupsBytes / plan->group_bytes, 1, smaller(groups, kMostGroups)));
  cut(*params, multiprocessors, plan);
  place(*params, plan);
  plan->workspace_bytes = plan->group_batch * plan->group_bytes;
  return status->code = EDGECONV_OK;
}

int edgeconv_deconv_whitening_cuda_run(const EdgeconvDeconvWhiteningParams* params,
                                       const EdgeconvDeconvWhiteningCudaPlan* plan,
                                       const EdgeconvDeconvWhiteningArguments* arguments, void* stream,
                                       EdgeconvStatus* status) {
  const int64_t groups = params->shape.group;
  for (int64_t first = 0; first < groups; first += plan->group_batch) {
    const int64_t count = smaller(plan->group_batch, groups - first);
    const Sequence sequence = {*params,
                               *plan,
                               *arguments,
                               static_cast<cudaStream_t>(stream),
                               status,
                               static_cast<unsigned>(first),
                               static_cast<unsigned>(count)};
    if (sequence.run() != EDGECONV_OK) return status->code;
  }
  return status->code = EDGECONV_OK;
}

}  // extern "C"
