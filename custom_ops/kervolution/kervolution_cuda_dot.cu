// The kernels of x.w on the GPU: how a call is cut into blocks, what it keeps where, and its launches.
#include <algorithm>

#include "common/cuda_status.h"
#include "kervolution/kervolution_cuda_dot.h"
#include "kervolution/kervolution_cuda_kernels.h"

namespace {

constexpr int64_t kIndices = int64_t{1} << 31, kSizes = int64_t{1} << 30;
constexpr int64_t kAlignment = 256;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }
bool takes_squares(int kernel) { return kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_EUCLIDEAN; }
int64_t bytes_of(int element_type) { return element_type == EDGECONV_FLOAT16 ? 2 : 4; }

// What follows from the filters' shape and the format alone.
struct Filters {
  int64_t group_channels, group_filters, taps;
  int64_t chunk_elements;
  bool small_groups, tensor_cores;
  bool unrolled;           // the taps of a kernel row are channels of what is prepared
  bool prepared;           // the product does not read x itself
  int64_t channel_chunks;  // of a group, a tap (or a row of unrolled ones)
  int64_t row_chunks;      // of k, padded
  EdgeconvDotPacked packed;

  int64_t chunks(const EdgeconvConvShape& shape) const {
    return channel_chunks * shape.kernel_height * (unrolled ? 1 : shape.kernel_width);
  }
};

Filters describe_filters(const EdgeconvKervolutionParams& params, const EdgeconvCudaFormat& format) {
  constexpr int64_t kMostUnrolled = 8;  // chunks: what is prepared must not outgrow x by far
  const EdgeconvConvShape& shape = params.shape;
  Filters f = {};
  f.group_channels = shape.in_channels / shape.group;
  f.group_filters = shape.out_channels / shape.group;
  f.taps = shape.kernel_height * shape.kernel_width;
  f.chunk_elements = kChunkBytes / bytes_of(params.element_type);
  f.tensor_cores = params.element_type == EDGECONV_FLOAT16 || format.math == EDGECONV_CUDA_TF32;
  f.small_groups = shape.group > 1 && f.group_channels * f.group_filters <= (f.tensor_cores ? 2 : 16);
  const int64_t plain = divide_up(f.group_channels, f.chunk_elements);
  const int64_t unrolled = divide_up(f.group_channels * shape.kernel_width, f.chunk_elements);
  f.unrolled = !f.small_groups && unrolled <= kMostUnrolled && 3 * shape.kernel_width * plain >= 4 * unrolled;
  f.channel_chunks = f.unrolled ? unrolled : plain;
  f.row_chunks = round_up(f.chunks(shape), 8);
  f.prepared = f.unrolled || format.layout == EDGECONV_NCHW || format.x_channel_pitch % f.chunk_elements != 0 ||
               (shape.group > 1 && f.group_channels % f.chunk_elements != 0);
  const int64_t filter_bytes =
      f.small_groups ? f.group_channels * f.taps * static_cast<int64_t>(sizeof(float)) : f.row_chunks * kChunkBytes;
  f.packed.sums = round_up(shape.out_channels * filter_bytes, kAlignment);
  f.packed.facts = round_up(f.packed.sums + shape.out_channels * static_cast<int64_t>(sizeof(float)), kAlignment);
  f.packed.statistics = f.packed.facts + kAlignment;
  f.packed.bytes = f.packed.statistics + shape.out_channels * 3 * static_cast<int64_t>(sizeof(double));
  return f;
}

struct Workspace {
  int64_t pixels, partials, bytes;  // what is prepared comes first
};

int64_t prepared_width(const EdgeconvConvShape& shape, const Filters& filters) {
  return filters.unrolled ? shape.out_width : shape.in_width;
}

int64_t partial_pitch(const Filters& filters) { return round_up(filters.group_filters, 2); }

Workspace lay_out(const EdgeconvKervolutionParams& params, const Filters& filters, int64_t splits) {
  const EdgeconvConvShape& shape = params.shape;
  if (filters.small_groups) return {};
  const int64_t pixels = shape.batch * shape.in_height * prepared_width(shape, filters) * shape.group;
  const int64_t positions = shape.batch * shape.out_height * shape.out_width;
  Workspace w = {};
  w.pixels = filters.prepared ? round_up(pixels * filters.channel_chunks * kChunkBytes, kAlignment) : 0;
  w.partials = w.pixels;
  if (takes_squares(params.kernel)) w.partials += round_up(pixels * static_cast<int64_t>(sizeof(float)), kAlignment);
  w.bytes = w.partials;
  if (splits > 1) {
    w.bytes += splits * shape.group * positions * partial_pitch(filters) * static_cast<int64_t>(sizeof(float));
  }
  return w;
}

// An estimate of the cycles that a product takes.
double estimate(const EdgeconvKervolutionParams& params, const Filters& filters, const EdgeconvCudaDevice& device,
                const EdgeconvDotTileSize& tile, int64_t splits) {
  constexpr double kBlock = 2000.0, kSum = 0.1, kStep = 60.0, kLaunch = 4000.0, kBytesPerCycle = 10.0;
  constexpr double kFewWarps = 4.0, kEnoughWarps = 8.0;  // of a multiprocessor at half its speed, and at all of it
  const EdgeconvConvShape& shape = params.shape;
  const double rate = params.element_type == EDGECONV_FLOAT16 ? 1024.0 : filters.tensor_cores ? 512.0 : 128.0;
  const int64_t positions = shape.batch * shape.out_height * shape.out_width;
  const int64_t tiles = shape.group * divide_up(positions, tile.rows) * divide_up(filters.group_filters, tile.columns);
  const double depth =
      static_cast<double>(filters.chunks(shape) * filters.chunk_elements) / static_cast<double>(splits);
  const double work = depth * tile.rows * tile.columns / (rate * tile.efficiency);
  // Blocks of the busiest multiprocessor, so many at a time.
  const double blocks = static_cast<double>(divide_up(tiles * splits, device.multiprocessors));
  const double room = std::max<double>(1.0, std::min<double>(tile.blocks, device.shared_bytes / tile.shared_bytes));
  const double together = std::min(blocks, room);
  const double warps = std::min(kEnoughWarps, std::max(kFewWarps, together * tile.warps));
  const double speed = 0.5 + 0.5 * (warps - kFewWarps) / (kEnoughWarps - kFewWarps);
  const double latency =
      kBlock + kSum * tile.rows * tile.columns + kStep * depth / static_cast<double>(filters.chunk_elements * 4);
  double cycles = std::max(blocks * work / speed, std::max(1.0, blocks / together) * latency) + kBlock;
  if (splits > 1) {
    const double bytes = 8.0 * static_cast<double>(splits * positions * shape.out_channels);
    cycles += kLaunch + bytes / (kBytesPerCycle * device.multiprocessors);
  }
  return cycles;
}

void choose_tile(const EdgeconvKervolutionParams& params, const Filters& filters, const EdgeconvCudaDevice& device,
                 EdgeconvKervolutionCudaPlan* plan) {
  constexpr int64_t kSplits[] = {1, 2, 3, 4, 6, 8, 12, 16};
  constexpr int64_t kLeastChunks = 32;  // a split
  double best = -1.0;
  for (int32_t tile = EDGECONV_DOT_FIRST_GEMM; tile < EDGECONV_DOT_TILES; ++tile) {
    if (kDotTiles[tile].shared_bytes > device.shared_bytes) continue;
    for (const int64_t splits : kSplits) {
      if (splits > 1 && filters.chunks(params.shape) < splits * kLeastChunks) break;
      const double cycles = estimate(params, filters, device, kDotTiles[tile], splits);
      if (best >= 0.0 && cycles >= best) continue;
      best = cycles;
      plan->tile = tile;
      plan->splits = static_cast<int32_t>(splits);
    }
  }
}

// Beyond what kervolution_cuda.cu has checked.
int check(const EdgeconvConvShape& shape, const Filters& filters, EdgeconvStatus* status) {
  const int64_t tall = std::max(shape.in_height + shape.pad_top, shape.out_height * shape.stride_height);
  const int64_t wide = std::max(shape.in_width + shape.pad_left, shape.out_width * shape.stride_width);
  if (std::max({tall, wide, shape.kernel_height * shape.dilation_height, shape.kernel_width * shape.dilation_width}) >=
      kSizes) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the CUDA kernels take padded images of fewer than 2^30 rows and columns");
  }
  if (!filters.small_groups && static_cast<double>(shape.out_channels) * static_cast<double>(filters.row_chunks) >=
                                   static_cast<double>(kIndices)) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the CUDA kernels take at most 2^31 pieces of 16 bytes of packed filters");
  }
  const double chunks = static_cast<double>(shape.batch * shape.in_height) *
                        static_cast<double>(prepared_width(shape, filters)) *
                        static_cast<double>(shape.group * filters.channel_chunks);
  if (!filters.small_groups && chunks >= static_cast<double>(kIndices)) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                               "the CUDA kernels keep at most 2^31 pieces of 16 bytes of X with its channels together, "
                               "and would need %.3g: cut the batch or the image into parts",
                               chunks);
  }
  return EDGECONV_OK;
}

EdgeconvConvPatches describe_patches(const EdgeconvConvShape& shape, const Filters& filters,
                                     const EdgeconvCudaFormat& format) {
  const auto number = [](int64_t value) { return static_cast<int>(value); };
  EdgeconvConvPatches p = {};
  p.positions = number(shape.batch * shape.out_height * shape.out_width);
  p.image_positions = number(shape.out_height * shape.out_width);
  p.out_width = number(shape.out_width);
  p.height = number(shape.in_height);
  p.width = number(prepared_width(shape, filters));
  p.channel_chunks = number(filters.channel_chunks);
  p.pixel_chunks = filters.prepared ? number(shape.group * filters.channel_chunks)
                                    : number(format.x_channel_pitch / filters.chunk_elements);
  const int64_t rest = filters.group_channels % filters.chunk_elements;
  p.last_bytes = filters.prepared || rest == 0 ? kChunkBytes : number(rest * kChunkBytes / filters.chunk_elements);
  p.kernel_height = number(shape.kernel_height);
  p.stride_height = number(shape.stride_height);
  p.pad_top = number(shape.pad_top);
  p.dilation_height = number(shape.dilation_height);
  p.kernel_width = filters.unrolled ? 1 : number(shape.kernel_width);
  p.stride_width = filters.unrolled ? 1 : number(shape.stride_width);
  p.pad_left = filters.unrolled ? 0 : number(shape.pad_left);
  p.dilation_width = filters.unrolled ? 1 : number(shape.dilation_width);
  return p;
}

cudaError_t prepare(const EdgeconvKervolutionParams& params, const Filters& filters, const EdgeconvCudaFormat& format,
                    const EdgeconvKervolutionCudaArguments& arguments, cudaStream_t stream) {
  const EdgeconvConvShape& shape = params.shape;
  EdgeconvDotPreparation p = {};
  p.x = arguments.x;
  p.to = arguments.workspace;
  p.element_bytes = static_cast<int>(bytes_of(params.element_type));
  p.channels_last = format.layout == EDGECONV_NHWC;
  p.images = static_cast<int>(shape.batch);
  p.groups = static_cast<int>(shape.group);
  p.group_channels = static_cast<int>(filters.group_channels);
  p.in_height = static_cast<int>(shape.in_height);
  p.in_width = static_cast<int>(shape.in_width);
  p.in_pitch = static_cast<int>(format.x_channel_pitch);
  p.out_width = static_cast<int>(prepared_width(shape, filters));
  p.group_chunks = static_cast<int>(filters.channel_chunks);
  p.taps = filters.unrolled ? static_cast<int>(shape.kernel_width) : 1;
  p.stride = filters.unrolled ? static_cast<int>(shape.stride_width) : 1;
  p.pad = filters.unrolled ? static_cast<int>(shape.pad_left) : 0;
  p.dilation = filters.unrolled ? static_cast<int>(shape.dilation_width) : 1;
  return edgeconv_dot_prepare(p, stream);
}

int run_groups(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionCudaPlan& plan, const Filters& filters,
               const EdgeconvKervolutionCudaArguments& arguments, cudaStream_t stream, EdgeconvStatus* status) {
  const char* const packed = static_cast<const char*>(arguments.packed);
  const EdgeconvConvShape& shape = params.shape;
  const auto number = [](int64_t value) { return static_cast<int>(value); };
  EdgeconvDotGroupsProblem p = {};
  p.images = number(shape.batch);
  p.channels = number(shape.in_channels);
  p.filters = number(shape.out_channels);
  p.group_channels = number(filters.group_channels);
  p.group_filters = number(filters.group_filters);
  p.height = number(shape.in_height);
  p.width = number(shape.in_width);
  p.out_height = number(shape.out_height);
  p.out_width = number(shape.out_width);
  p.kernel_height = number(shape.kernel_height);
  p.kernel_width = number(shape.kernel_width);
  p.stride_height = number(shape.stride_height);
  p.stride_width = number(shape.stride_width);
  p.pad_top = number(shape.pad_top);
  p.pad_left = number(shape.pad_left);
  p.dilation_height = number(shape.dilation_height);
  p.dilation_width = number(shape.dilation_width);
  p.kernel = params.kernel;
  p.channels_last = plan.format.layout == EDGECONV_NHWC;
  p.degree = params.degree;
  p.x_pitch = static_cast<int>(plan.format.x_channel_pitch);
  p.y_pitch = static_cast<int>(plan.format.y_channel_pitch);
  p.x = arguments.x;
  p.packed = static_cast<const float*>(arguments.packed);
  p.facts = reinterpret_cast<const EdgeconvDotFilterFacts*>(packed + filters.packed.facts);
  p.balance = arguments.balance;
  p.scale = arguments.scale;
  p.bias = arguments.bias;
  p.y = arguments.y;
  return cuda_status(edgeconv_dot_groups(p, params.element_type, stream), "The kernel for small groups", status);
}

int run_product(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionCudaPlan& plan,
                const Filters& filters, const EdgeconvKervolutionCudaArguments& arguments, cudaStream_t stream,
                EdgeconvStatus* status) {
  const EdgeconvDotTileSize& tile = kDotTiles[plan.tile];
  const Workspace places = lay_out(params, filters, plan.splits);
  const char* const packed = static_cast<const char*>(arguments.packed);
  char* const workspace = static_cast<char*>(arguments.workspace);
  EdgeconvDotProblem p = {};
  p.patches = describe_patches(params.shape, filters, plan.format);
  p.patches.x = filters.prepared ? workspace : static_cast<const char*>(arguments.x);
  p.patches.stage_taps = tile.chunks / p.patches.channel_chunks;
  p.patches.stage_chunks = tile.chunks % p.patches.channel_chunks;
  p.filters = {packed, static_cast<int>(filters.group_filters), static_cast<int>(filters.row_chunks)};
  p.kernel = params.kernel;
  p.channels_last = plan.format.layout == EDGECONV_NHWC;
  p.degree = params.degree;
  p.groups = static_cast<int>(params.shape.group);
  p.row_tiles = static_cast<int>(divide_up(p.patches.positions, tile.rows));
  p.column_tiles = static_cast<int>(divide_up(filters.group_filters, tile.columns));
  p.splits = plan.splits;
  p.filter_sums = reinterpret_cast<const float*>(packed + filters.packed.sums);
  p.facts = reinterpret_cast<const EdgeconvDotFilterFacts*>(packed + filters.packed.facts);
  p.pixel_sums = reinterpret_cast<float*>(workspace + places.pixels);
  p.partials = reinterpret_cast<float*>(workspace + places.partials);
  p.partial_pitch = static_cast<int>(partial_pitch(filters));
  p.y_pitch = static_cast<int>(plan.format.y_channel_pitch);
  p.balance = arguments.balance;
  p.scale = arguments.scale;
  p.bias = arguments.bias;
  p.y = arguments.y;

  const bool half = params.element_type == EDGECONV_FLOAT16;
  const bool tf32 = !half && filters.tensor_cores;
  cudaError_t error = cudaSuccess;
  if (filters.prepared) {
    error = prepare(params, filters, plan.format, arguments, stream);
    if (error != cudaSuccess) return cuda_status(error, "The kernel that prepares the input", status);
  }
  if (takes_squares(params.kernel)) {
    error = edgeconv_dot_pixel_sums(p, params.element_type, tf32, stream);
    if (error != cudaSuccess) return cuda_status(error, "The kernel that sums squares", status);
  }
  error = half   ? edgeconv_dot_gemm_f16(p, plan.tile, stream)
          : tf32 ? edgeconv_dot_gemm_tf32(p, plan.tile, stream)
                 : edgeconv_dot_gemm_f32(p, plan.tile, stream);
  if (error != cudaSuccess) return cuda_status(error, "The kernel of products", status);
  if (plan.splits == 1) return EDGECONV_OK;
  return cuda_status(edgeconv_dot_finish(p, params.element_type, stream), "The kernel that adds parts", status);
}

}  // namespace

extern "C" {

int edgeconv_kervolution_dot_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                       const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                       EdgeconvStatus* status) {
  const Filters filters = describe_filters(*params, *format);
  plan->packed_bytes = filters.packed.bytes;
  plan->tile = EDGECONV_DOT_GROUPS;
  plan->splits = 1;
  if (params->shape.out_height <= 0 || params->shape.batch == 0) return EDGECONV_OK;
  const int code = check(params->shape, filters, status);
  if (code != EDGECONV_OK || filters.small_groups) return code;
  choose_tile(*params, filters, *device, plan);
  plan->workspace_bytes = lay_out(*params, filters, plan->splits).bytes;
  return EDGECONV_OK;
}

int edgeconv_kervolution_dot_cuda_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                       const void* w, void* packed, void* stream, EdgeconvStatus* status) {
  const Filters filters = describe_filters(*params, plan->format);
  EdgeconvDotPacking p = {};
  p.filters = params->shape.out_channels;
  p.group_channels = filters.group_channels;
  p.kernel_height = static_cast<int>(params->shape.kernel_height);
  p.kernel_width = static_cast<int>(params->shape.kernel_width);
  p.small_groups = filters.small_groups;
  p.unrolled = filters.unrolled;
  p.row_chunks = filters.row_chunks;
  p.element_type = params->element_type;
  p.tf32 = params->element_type == EDGECONV_FLOAT32 && filters.tensor_cores;
  p.places = filters.packed;
  const cudaError_t error = edgeconv_dot_pack(p, w, packed, static_cast<cudaStream_t>(stream));
  return cuda_status(error, "Packing the filters", status);
}

int edgeconv_kervolution_dot_cuda_run(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                      const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                      EdgeconvStatus* status) {
  const Filters filters = describe_filters(*params, plan->format);
  cudaStream_t const on = static_cast<cudaStream_t>(stream);
  return filters.small_groups ? run_groups(*params, *plan, filters, *arguments, on, status)
                              : run_product(*params, *plan, filters, *arguments, on, status);
}

}  // extern "C"
