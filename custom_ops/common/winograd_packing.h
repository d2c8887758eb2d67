// The packed filters of Winograd's algorithm (winograd.h), and which layers they are made for.
#ifndef EDGECONV_COMMON_WINOGRAD_PACKING_H_
#define EDGECONV_COMMON_WINOGRAD_PACKING_H_

#include "common/conv_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

// Output channels whose sums wait for the transform while the transformed input stays in the cache.
static const int64_t kWinogradGroup = 32;

// Whether the filters' shape is one that the algorithm serves and wins on.
int edgeconv_winograd_fits(const EdgeconvConvShape* shape);

// Where the filters of output channel `channel` (a multiple of tile_rows) begin for product `product` of 16, in floats
// from the beginning of the group: [row of the product][group of channels][column of it][tile of channels][in channel]
// [tile_rows], the order in which they are read.
static inline size_t edgeconv_winograd_offset(int64_t in_channels, int64_t padded_channels, int64_t product,
                                              int64_t channel) {
  const int64_t group = channel / kWinogradGroup * kWinogradGroup;
  const int64_t width = padded_channels - group < kWinogradGroup ? padded_channels - group : kWinogradGroup;
  return (product / 4 * 4 * padded_channels + 4 * group + product % 4 * width + (channel - group)) * in_channels;
}

// Floats of the packed filters of all groups.
size_t edgeconv_winograd_floats(const EdgeconvConvShape* shape, int64_t padded_channels);

// Transforms and packs w (M, C/group, 3, 3).
void edgeconv_winograd_pack(const EdgeconvConvShape* shape, int64_t padded_channels, int64_t tile_rows,
                            int element_type, const void* w, float* packed);

#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_WINOGRAD_PACKING_H_
