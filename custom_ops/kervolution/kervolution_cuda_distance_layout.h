// How a call of manhattan or chebyshev kervolution is laid out: which kernel, which words, where in memory.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_LAYOUT_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_LAYOUT_H_

#include "common/cuda_distance_direct.h"
#include "common/cuda_distance_plan.h"
#include "kervolution/kervolution_cuda_distance_outputs.h"

namespace {

// How one call is laid out.
struct Work {
  DistanceShape shape;
  bool half, manhattan;
  bool direct;  // few filters a group
  bool planar;  // x and y as they come
  bool gather;  // x into pixels of words
  int x_pitch, y_pitch;
  WordOrder order;
  PackedWords packed;
  OutputPlaces y;

  bool sums_halves() const { return half && manhattan; }
  int taps() const { return shape.depth * shape.kernel_height * shape.kernel_width; }
  int group_words() const { return order.depth * order.unit; }
  int64_t packed_bytes() const { return direct ? int64_t{4} * taps() * shape.groups * shape.filters : packed.end; }
  int64_t gathered_bytes() const {
    const int64_t pixels = static_cast<int64_t>(shape.batch) * shape.in_height * shape.in_width;
    return gather ? pixels * shape.groups * group_words() * 4 : 0;
  }
};

// Whether each group's channels of a pixel begin at a multiple of `halves`.
bool are_aligned(const Work& work, int halves) {
  return work.x_pitch % halves == 0 && (work.shape.groups == 1 || work.shape.depth % halves == 0);
}

Work work_of(const EdgeconvKervolutionParams& params, const EdgeconvCudaFormat& format) {
  Work work = {};
  work.shape = distance_shape(params.shape);
  work.half = params.element_type == EDGECONV_FLOAT16;
  work.manhattan = params.kernel == EDGECONV_MANHATTAN;
  work.planar = format.layout == EDGECONV_NCHW;
  work.x_pitch = static_cast<int>(format.x_channel_pitch), work.y_pitch = static_cast<int>(format.y_channel_pitch);
  work.direct = takes_direct(params.shape);
  int unit = 1;
  if (work.half && !work.direct) {
    work.gather = work.planar || !are_aligned(work, 2);
    // Copies of four words, where that leaves at most a third of k empty.
    const bool fours = divide_up(work.shape.depth, 8) * 4 * 3 <= divide_up(work.shape.depth, 2) * 4;
    if (work.sums_halves() && fours && (work.gather || are_aligned(work, 8))) unit = 4;
  }
  work.order = word_order(work.shape, work.half ? 2 : 1, unit, work.sums_halves() ? kHalvesDepth : kTileDepth,
                          work.planar && !work.half);
  work.packed = packed_words(work.shape, work.order, work.sums_halves());
  work.y = output_places(work.shape, work.planar, work.y_pitch);
  return work;
}

TileInput tile_input(const Work& work, const EdgeconvKervolutionCudaPlan& plan,
                     const EdgeconvKervolutionCudaArguments& arguments) {
  const DistanceShape& shape = work.shape;
  const char* const packed = static_cast<const char*>(arguments.packed);
  const int per_word = work.order.per_word, group_words = work.group_words();
  TileInput input = {};
  input.shape = shape;
  input.planar = work.order.planar;
  const int pitch = work.gather ? shape.groups * group_words : work.x_pitch / per_word;
  input.strides = activation_strides(input.planar, work.gather ? group_words : shape.depth / per_word, shape.groups,
                                     shape.in_height, shape.in_width, pitch);
  input.x = static_cast<const uint32_t*>(work.gather ? arguments.workspace : arguments.x);
  input.outside = input.x;
  input.taps = reinterpret_cast<const TapWord*>(packed);
  input.filters = reinterpret_cast<const uint32_t*>(packed + work.packed.filters);
  input.filter_pitch = work.packed.pitch;
  input.unit = work.order.unit;
  input.steps = work.order.steps;
  input.split_steps = divide_up(input.steps, plan.splits);
  input.splits = plan.splits;
  return input;
}

template <typename Value>
struct Values {
  using Element = Value;
  __device__ __forceinline__ float operator()(const Element* from) const { return element_to_float(*from); }
};

// Few filters a group, with sums or maxima in float32.
template <typename Element>
cudaError_t launch_few_filters(const Work& work, const EdgeconvKervolutionParams& params,
                               const EdgeconvKervolutionCudaPlan& plan,
                               const EdgeconvKervolutionCudaArguments& arguments,
                               const NegativeDistance<Element>& finish, cudaStream_t stream) {
  const DirectInput input = {work.shape, direct_plan(params.shape, kDirectTable[plan.tile - kDirectTile]), work.planar,
                             finish.strides, static_cast<const float*>(arguments.packed)};
  if (work.manhattan) {
    return launch_direct<FloatManhattan>(input, work.y, Values<Element>{}, arguments.x, finish, arguments.y, stream);
  }
  return launch_direct<FloatChebyshev>(input, work.y, Values<Element>{}, arguments.x, finish, arguments.y, stream);
}

}  // namespace

// Of each element type, in a file of its own. The result is a cudaError_t.
extern "C" {
int edgeconv_kervolution_distance_cuda_pack_float16(const EdgeconvKervolutionParams* params,
                                                    const EdgeconvKervolutionCudaPlan* plan, const void* w,
                                                    void* packed, void* stream);
int edgeconv_kervolution_distance_cuda_run_float16(const EdgeconvKervolutionParams* params,
                                                   const EdgeconvKervolutionCudaPlan* plan,
                                                   const EdgeconvKervolutionCudaArguments* arguments, void* stream);
}

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_CUDA_DISTANCE_LAYOUT_H_
