// Launch functions: dispatch on the instruction set, packing, loops over tasks. The arithmetic is in
// kervolution_kernel.h, compiled once for each instruction set.
#include "kervolution/kervolution.h"

#include <algorithm>

namespace {

const EdgeconvKervolutionIsa* find_isa(int isa) {
  if (isa < EDGECONV_ISA_BASELINE || isa > edgeconv_best_isa()) return nullptr;
  switch (isa) {
#ifdef __x86_64__
    case EDGECONV_ISA_AVX2: return &edgeconv_kervolution_avx2;
    case EDGECONV_ISA_AVX512: return &edgeconv_kervolution_avx512;
#endif
    default: return &edgeconv_kervolution_baseline;
  }
}

bool needs_norms(int kernel) { return kernel == EDGECONV_GAUSSIAN || kernel == EDGECONV_EUCLIDEAN; }

}  // namespace

extern "C" {

int edgeconv_kervolution_tiling(const EdgeconvKervolutionParams* params, int isa, EdgeconvTiling* tiling,
                                EdgeconvStatus* status) {
  const EdgeconvKervolutionIsa* kernels = find_isa(isa);
  if (kernels == nullptr) {
    return edgeconv_set_status(status, EDGECONV_UNSUPPORTED, "this CPU does not have the instruction set '%s'",
                               edgeconv_isa_name(isa));
  }
  if (params->shape.out_height > 0) {
    edgeconv_tiling(&params->shape, &kernels->tile, tiling);
  } else {
    edgeconv_filter_tiling(&params->shape, &kernels->tile, tiling);
  }
  return status->code = EDGECONV_OK;
}

size_t edgeconv_kervolution_packed_bytes(const EdgeconvKervolutionParams* params, const EdgeconvTiling* tiling) {
  const size_t norms = needs_norms(params->kernel) ? params->shape.out_channels : 0;
  return (edgeconv_packed_floats(&params->shape, tiling) + norms) * sizeof(float);
}

void edgeconv_kervolution_pack(const EdgeconvKervolutionParams* params, const EdgeconvTiling* tiling, const void* w,
                               float* packed) {
  const EdgeconvConvShape& shape = params->shape;
  edgeconv_pack_weights(&shape, tiling, params->element_type, w, packed);
  if (!needs_norms(params->kernel)) return;
  float* norms = packed + edgeconv_packed_floats(&shape, tiling);
  for (int64_t channel = 0; channel < shape.out_channels; ++channel) {
    const int64_t in_group = channel % tiling->group_channels;
    const int64_t row = in_group % tiling->tile_rows;
    double norm = 0.0;
    for (int64_t first = 0; first < tiling->taps; first += tiling->tap_block) {
      const float* weights = packed + row + edgeconv_packed_offset(tiling, channel / tiling->group_channels, first,
                                                                   in_group - row);
      const int64_t taps = std::min(tiling->tap_block, tiling->taps - first);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const double value = weights[tap * tiling->tile_rows];
        norm += value * value;
      }
    }
    norms[channel] = static_cast<float>(norm);
  }
}

size_t edgeconv_kervolution_scratch_bytes(const EdgeconvTiling* tiling) {
  // Strips, sums, squared norms of the patches, offsets of the taps: kervolution_kernel.h lays them out in this order.
  const int64_t positions = tiling->block_rows * tiling->block_columns + tiling->tile_positions;
  return (tiling->strip_floats + tiling->sum_floats + positions + tiling->tap_block + 4 * 16) * sizeof(float);
}

void edgeconv_kervolution_run(const EdgeconvKervolutionParams* params, int isa, const EdgeconvTiling* tiling,
                              const EdgeconvKervolutionArguments* arguments, int64_t first, int64_t last,
                              void* scratch) {
  const EdgeconvKervolutionIsa* kernels = find_isa(isa);
  for (int64_t task = first; kernels != nullptr && task < last; ++task) {
    kernels->run(params, tiling, arguments, task, scratch);
  }
}

}  // extern "C"
