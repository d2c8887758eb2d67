// Manhattan and chebyshev kervolution on GPUs: sums and maxima of |x - w| over words of taps. Those of float32 are
// here, those of float16 in kervolution_cuda_distance_float16.cu.
//
// Kernels:   the register tile of common/cuda_distance_tile.h; few filters a group by common/cuda_distance_direct.h.
// Launchers: edgeconv_kervolution_distance_cuda_plan, _pack, _run.
#include "common/cuda_status.h"
#include "kervolution/kervolution_cuda_distance_layout.h"
#include "kervolution/kervolution_cuda_kernels.h"

namespace {

struct FloatFilterValues {
  const float* w;
  int taps;
  __device__ float operator()(int filter, int tap) const { return w[static_cast<int64_t>(filter) * taps + tap]; }
};

struct FloatFilters {
  FloatFilterValues values;
  __device__ uint32_t operator()(int filter, int tap) const { return __float_as_uint(values(filter, tap)); }
};

cudaError_t pack(const Work& work, const void* w, void* packed, cudaStream_t stream) {
  const FloatFilterValues values = {static_cast<const float*>(w), work.taps()};
  if (work.direct) return launch_float_packing(work.shape, values, packed, stream);
  return launch_packing(work.shape, work.order, work.packed, 4, FloatFilters{values}, packed, stream);
}

cudaError_t run(const EdgeconvKervolutionParams& params, const Work& work, const EdgeconvKervolutionCudaPlan& plan,
                const EdgeconvKervolutionCudaArguments& arguments, cudaStream_t stream) {
  const NegativeDistance<float> finish =
      negative_distance<float>(work.shape, work.planar, work.manhattan, work.x_pitch, arguments);
  if (work.direct) return launch_few_filters(work, params, plan, arguments, finish, stream);
  const TileInput input = tile_input(work, plan, arguments);
  if (work.manhattan) {
    return launch_tiles<FloatManhattan>(plan.tile, input, work.y, finish, arguments.workspace, arguments.y, stream);
  }
  return launch_tiles<FloatChebyshev>(plan.tile, input, work.y, finish, arguments.workspace, arguments.y, stream);
}

}  // namespace

extern "C" {

int edgeconv_kervolution_distance_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                            const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                            EdgeconvStatus* status) {
  status->code = EDGECONV_OK;
  const Work work = work_of(*params, *format);
  plan->packed_bytes = work.packed_bytes();
  if (work.direct) plan->tile = kDirectTile;
  if (params->shape.out_height <= 0) return status->code;
  if (work.direct) {
    plan->tile += choose_direct(work.shape, work.planar);
    return status->code;
  }
  const TileChoice choice =
      work.sums_halves() ? choose_tile(kHalvesTable, kHalvesTiles, work.shape, work.order.steps, kHalvesDepth, *device)
                         : choose_tile(kTileTable, kTiles, work.shape, work.order.steps, kTileDepth, *device);
  plan->tile = choice.tile;
  plan->splits = choice.splits;
  plan->workspace_bytes = work.gathered_bytes() + (choice.splits > 1 ? choice.splits * work.y.split * 4 : 0);
  return status->code;
}

int edgeconv_kervolution_distance_cuda_pack(const EdgeconvKervolutionParams* params,
                                            const EdgeconvKervolutionCudaPlan* plan, const void* w, void* packed,
                                            void* stream, EdgeconvStatus* status) {
  const Work work = work_of(*params, plan->format);
  const int error = work.half ? edgeconv_kervolution_distance_cuda_pack_float16(params, plan, w, packed, stream)
                              : pack(work, w, packed, static_cast<cudaStream_t>(stream));
  return cuda_status(static_cast<cudaError_t>(error), "Packing the filters on the GPU", status);
}

int edgeconv_kervolution_distance_cuda_run(const EdgeconvKervolutionParams* params,
                                           const EdgeconvKervolutionCudaPlan* plan,
                                           const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                           EdgeconvStatus* status) {
  const Work work = work_of(*params, plan->format);
  const cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  int error = work.half ? edgeconv_kervolution_distance_cuda_run_float16(params, plan, arguments, stream)
                        : run(*params, work, *plan, *arguments, cuda_stream);
  if (error == cudaSuccess && !work.planar) {
    error = work.half ? launch_filling<uint16_t>(work.shape, work.y_pitch, 0, arguments->y, cuda_stream)
                      : launch_filling<uint32_t>(work.shape, work.y_pitch, 0, arguments->y, cuda_stream);
  }
  return cuda_status(static_cast<cudaError_t>(error), "The launch of the kervolution kernel", status);
}

}  // extern "C"
