// Manhattan and chebyshev kervolution of float16 on GPUs.
//
// Kernels:   sums over halves by common/cuda_distance_halves.h; maxima by common/cuda_distance_tile.h on pairs of
//            halves; few filters a group by common/cuda_distance_direct.h. Halves in planes, and those that words
//            cannot reach, are gathered into pixels of words before.
#include "kervolution/kervolution_cuda_distance_layout.h"

namespace {

struct HalfFilters {
  const uint16_t* w;
  int taps;
  __device__ uint32_t operator()(int filter, int tap) const { return w[static_cast<int64_t>(filter) * taps + tap]; }
};

struct HalfFilterValues {
  const __half* w;
  int taps;
  __device__ float operator()(int filter, int tap) const {
    return __half2float(w[static_cast<int64_t>(filter) * taps + tap]);
  }
};

struct HalfBits {
  using Element = uint16_t;
  static constexpr int kPerWord = 2;
  __device__ __forceinline__ uint32_t operator()(const Element* from) const { return *from; }
};

}  // namespace

extern "C" {

int edgeconv_kervolution_distance_cuda_pack_float16(const EdgeconvKervolutionParams* params,
                                                    const EdgeconvKervolutionCudaPlan* plan, const void* w,
                                                    void* packed, void* stream) {
  const Work work = work_of(*params, plan->format);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  if (work.direct) {
    return launch_float_packing(work.shape, HalfFilterValues{static_cast<const __half*>(w), work.taps()}, packed,
                                cuda_stream);
  }
  return launch_packing(work.shape, work.order, work.packed, 2,
                        HalfFilters{static_cast<const uint16_t*>(w), work.taps()}, packed, cuda_stream);
}

int edgeconv_kervolution_distance_cuda_run_float16(const EdgeconvKervolutionParams* params,
                                                   const EdgeconvKervolutionCudaPlan* plan,
                                                   const EdgeconvKervolutionCudaArguments* arguments, void* stream) {
  const Work work = work_of(*params, plan->format);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  const NegativeDistance<__half> finish =
      negative_distance<__half>(work.shape, work.planar, work.manhattan, work.x_pitch, *arguments);
  if (work.direct) return launch_few_filters(work, *params, *plan, *arguments, finish, cuda_stream);
  if (work.gather) {
    const cudaError_t error = launch_gathering(work.shape, work.planar, work.x_pitch, work.group_words(), HalfBits{},
                                               static_cast<const uint16_t*>(arguments->x),
                                               static_cast<uint32_t*>(arguments->workspace), cuda_stream);
    if (error != cudaSuccess) return error;
  }
  const TileInput input = tile_input(work, *plan, *arguments);
  void* const partial = static_cast<char*>(arguments->workspace) + work.gathered_bytes();
  if (work.manhattan) return launch_half_tiles(plan->tile, input, work.y, finish, partial, arguments->y, cuda_stream);
  return launch_tiles<HalfChebyshev>(plan->tile, input, work.y, finish, partial, arguments->y, cuda_stream);
}

}  // extern "C"
