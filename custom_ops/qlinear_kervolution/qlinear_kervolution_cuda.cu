// Manhattan kervolution between 8-bit tensors on GPUs.
//
// Kernels:   integer sums by the register tile of common/cuda_distance_tile.h on words of four bytes, one instruction a
//            word; sums of real numbers by the same tile on floats; few filters a group by
//            common/cuda_distance_direct.h, where whole steps as floats are exact. Bytes in planes, and those that
//            words cannot reach, are gathered into pixels of words before.
// Launchers: edgeconv_qlinear_kervolution_cuda_plan, _pack, _run.
#include "common/cuda_distance_direct.h"
#include "common/cuda_distance_plan.h"
#include "common/cuda_status.h"
#include "qlinear_kervolution/qlinear_kervolution_cuda_checks.h"
#include "qlinear_kervolution/qlinear_kervolution_cuda_outputs.h"

namespace {

// How one call is laid out.
struct Work {
  DistanceShape shape;
  bool integers;
  bool direct;  // few filters a group
  bool planar;  // x and y as they come
  bool gather;  // x into pixels of words
  int x_pitch, y_pitch;
  WordOrder order;
  PackedWords packed;
  OutputPlaces y;

  int taps() const { return shape.depth * shape.kernel_height * shape.kernel_width; }
  int channels() const { return shape.groups * shape.filters; }
  // Packed: words, the word outside the image, a constant for each channel; or floats.
  int64_t outside_at() const { return packed.end; }
  int64_t constants_at() const { return packed.end + 16; }
  int64_t packed_bytes() const {
    if (direct) return static_cast<int64_t>(channels()) * taps() * 4;
    return integers ? constants_at() + static_cast<int64_t>(channels()) * 4 : packed.end;
  }
  int64_t gathered_bytes() const {
    const int64_t pixels = static_cast<int64_t>(shape.batch) * shape.in_height * shape.in_width;
    return gather ? divide_up<int64_t>(pixels * shape.groups * order.depth * 4, 16) * 16 : 0;
  }
};

Work work_of(const EdgeconvQLinearKervolutionParams& params, const EdgeconvCudaFormat& format) {
  Work work = {};
  work.shape = distance_shape(params.shape);
  work.integers = params.sums == EDGECONV_INTEGER_SUMS;
  work.direct = takes_direct(params.shape);
  work.planar = format.layout == EDGECONV_NCHW;
  work.x_pitch = static_cast<int>(format.x_channel_pitch), work.y_pitch = static_cast<int>(format.y_channel_pitch);
  const int per_word = work.integers ? 4 : 1;
  const bool aligned = work.x_pitch % per_word == 0 && (work.shape.groups == 1 || work.shape.depth % per_word == 0);
  work.gather = !work.direct && (!work.integers || work.planar || !aligned);
  work.order = word_order(work.shape, per_word, 1, kTileDepth, false);
  work.packed = packed_words(work.shape, work.order, false);
  work.y = output_places(work.shape, work.planar, work.y_pitch);
  return work;
}

TileInput tile_input(const Work& work, const EdgeconvQLinearKervolutionCudaPlan& plan,
                     const EdgeconvQLinearKervolutionCudaArguments& arguments) {
  const DistanceShape& shape = work.shape;
  const char* const packed = static_cast<const char*>(arguments.packed);
  const int depth = work.gather ? work.order.depth : shape.depth / work.order.per_word;
  const int pitch = work.gather ? shape.groups * depth : work.x_pitch / work.order.per_word;
  TileInput input = {};
  input.shape = shape;
  input.strides = activation_strides(false, depth, shape.groups, shape.in_height, shape.in_width, pitch);
  input.x = static_cast<const uint32_t*>(work.gather ? arguments.workspace : arguments.x);
  input.outside = work.integers ? reinterpret_cast<const uint32_t*>(packed + work.outside_at()) : input.x;
  input.taps = reinterpret_cast<const TapWord*>(packed);
  input.filters = reinterpret_cast<const uint32_t*>(packed + work.packed.filters);
  input.filter_pitch = work.packed.pitch;
  input.unit = 1;
  input.steps = work.order.steps;
  input.split_steps = divide_up(input.steps, plan.splits);
  input.splits = plan.splits;
  return input;
}

ByteFloats byte_floats(const EdgeconvQLinearKervolutionParams& params) {
  return {params.x_type == EDGECONV_INT8, params.x_zero_point,
          params.sums == EDGECONV_INTEGER_SUMS ? 1.0f : params.x_scale};
}

cudaError_t gather(const EdgeconvQLinearKervolutionParams& params, const Work& work,
                   const EdgeconvQLinearKervolutionCudaArguments& arguments, cudaStream_t stream) {
  const uint8_t* const x = static_cast<const uint8_t*>(arguments.x);
  uint32_t* const to = static_cast<uint32_t*>(arguments.workspace);
  if (work.integers) {
    return launch_gathering(work.shape, work.planar, work.x_pitch, work.order.depth, Bytes{}, x, to, stream);
  }
  return launch_gathering(work.shape, work.planar, work.x_pitch, work.order.depth, ByteFloatBits{byte_floats(params)},
                          x, to, stream);
}

cudaError_t launch(const EdgeconvQLinearKervolutionParams& params, const Work& work,
                   const EdgeconvQLinearKervolutionCudaPlan& plan,
                   const EdgeconvQLinearKervolutionCudaArguments& arguments, cudaStream_t stream) {
  const char* const packed = static_cast<const char*>(arguments.packed);
  const int32_t* const constants = reinterpret_cast<const int32_t*>(packed + work.constants_at());
  const QuantizedDistance finish = quantized_distance(params, arguments, constants);
  if (work.direct) {
    const DistanceShape& shape = work.shape;
    const DirectInput input = {
        shape, direct_plan(params.shape, kDirectTable[plan.tile - kDirectTile]), work.planar,
        activation_strides(work.planar, shape.depth, shape.groups, shape.in_height, shape.in_width, work.x_pitch),
        reinterpret_cast<const float*>(packed)};
    return launch_direct<FloatManhattan>(input, work.y, byte_floats(params), arguments.x, finish, arguments.y, stream);
  }
  if (work.gather) {
    const cudaError_t error = gather(params, work, arguments, stream);
    if (error != cudaSuccess) return error;
  }
  const TileInput input = tile_input(work, plan, arguments);
  void* const partial = static_cast<char*>(arguments.workspace) + work.gathered_bytes();
  if (!work.integers)
    return launch_tiles<FloatManhattan>(plan.tile, input, work.y, finish, partial, arguments.y, stream);
  if (params.x_type == EDGECONV_INT8) {
    return launch_tiles<ByteManhattan<int8_t>>(plan.tile, input, work.y, finish, partial, arguments.y, stream);
  }
  return launch_tiles<ByteManhattan<uint8_t>>(plan.tile, input, work.y, finish, partial, arguments.y, stream);
}

cudaError_t pack(const EdgeconvQLinearKervolutionParams& params, const Work& work,
                 const EdgeconvQLinearFilters& filters, void* packed, cudaStream_t stream) {
  const QuantizedFilters quantized = {filters, params.w_type == EDGECONV_INT8, work.taps()};
  const FilterFloats floats = {quantized, !work.integers};
  if (work.direct) return launch_float_packing(work.shape, floats, packed, stream);
  if (!work.integers) {
    return launch_packing(work.shape, work.order, work.packed, 4, FilterFloatBits{floats}, packed, stream);
  }
  const FilterBytes bytes = {quantized, params.x_zero_point, lowest(params.x_type)};
  const cudaError_t error = launch_packing(work.shape, work.order, work.packed, 1, bytes, packed, stream);
  if (error != cudaSuccess) return error;
  char* const to = static_cast<char*>(packed);
  return EDGECONV_LAUNCH(pack_constants, dim3(divide_up(work.channels(), 8)), dim3(256), 0, stream, work.channels(),
                         bytes, reinterpret_cast<int32_t*>(to + work.constants_at()),
                         reinterpret_cast<uint32_t*>(to + work.outside_at()));
}

}  // namespace

extern "C" {

int edgeconv_qlinear_kervolution_cuda_plan(const EdgeconvQLinearKervolutionParams* params,
                                           const EdgeconvCudaFormat* format, const EdgeconvCudaDevice* device,
                                           EdgeconvQLinearKervolutionCudaPlan* plan, EdgeconvStatus* status) {
  *plan = {};
  plan->format = *format;
  plan->splits = 1;
  const int code = check(*params, *format, status);
  if (code != EDGECONV_OK) return code;
  status->code = EDGECONV_OK;
  const Work work = work_of(*params, *format);
  plan->packed_bytes = work.packed_bytes();
  if (work.direct) plan->tile = kDirectTile;
  if (params->shape.out_height <= 0) return status->code;
  if (work.direct) {
    plan->tile += choose_direct(work.shape, work.planar);
    return status->code;
  }
  const TileChoice choice = choose_tile(kTileTable, kTiles, work.shape, work.order.steps, kTileDepth, *device);
  plan->tile = choice.tile;
  plan->splits = choice.splits;
  plan->workspace_bytes = work.gathered_bytes() + (choice.splits > 1 ? choice.splits * work.y.split * 4 : 0);
  return status->code;
}

int edgeconv_qlinear_kervolution_cuda_pack(const EdgeconvQLinearKervolutionParams* params,
                                           const EdgeconvQLinearKervolutionCudaPlan* plan,
                                           const EdgeconvQLinearFilters* filters, void* packed, void* stream,
                                           EdgeconvStatus* status) {
  status->code = EDGECONV_OK;
  const cudaError_t error =
      pack(*params, work_of(*params, plan->format), *filters, packed, static_cast<cudaStream_t>(stream));
  return cuda_status(error, "Packing the filters on the GPU", status);
}

int edgeconv_qlinear_kervolution_cuda_run(const EdgeconvQLinearKervolutionParams* params,
                                          const EdgeconvQLinearKervolutionCudaPlan* plan,
                                          const EdgeconvQLinearKervolutionCudaArguments* arguments, void* stream,
                                          EdgeconvStatus* status) {
  status->code = EDGECONV_OK;
  const EdgeconvConvShape& shape = params->shape;
  if (shape.batch * shape.out_height * shape.out_width * shape.out_channels == 0) return EDGECONV_OK;
  const Work work = work_of(*params, plan->format);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  cudaError_t error = launch(*params, work, *plan, *arguments, cuda_stream);
  if (error == cudaSuccess && !work.planar) {
    error = launch_filling<uint8_t>(work.shape, work.y_pitch, static_cast<uint8_t>(arguments->y_zero_point),
                                    arguments->y, cuda_stream);
  }
  return cuda_status(error, "The launch of the 8-bit kervolution kernel", status);
}

}  // extern "C"
