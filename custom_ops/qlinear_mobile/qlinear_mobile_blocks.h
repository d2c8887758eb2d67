// How output channels are cut into blocks: as even as whole vectors allow, so that no block is mostly padding. Packing
// and kernels must agree on it.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_BLOCKS_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_BLOCKS_H_

#include <stdint.h>

#include "common/conv_shape.h"

namespace {

struct ChannelBlock {
  int64_t first;    // channel
  int64_t vectors;  // of `lanes` channels; the last may be partly padding
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

inline int64_t channel_blocks(int64_t channels, int64_t lanes, int64_t most_vectors) {
  return divide_up(divide_up(channels, lanes), most_vectors);
}

inline ChannelBlock channel_block(int64_t channels, int64_t lanes, int64_t blocks, int64_t index) {
  const int64_t vectors = divide_up(channels, lanes), each = vectors / blocks, more = vectors % blocks;
  const int64_t first = index * each + (index < more ? index : more);
  return {first * lanes, each + (index < more ? 1 : 0)};
}

// Which of a block's channels, in the order of activations (common/dots_baseline.h), is lane `lane` of sum `j`.
inline int64_t channel_of_lane(int64_t vectors, int64_t j, int64_t lane) {
  return lane / 4 * 4 * vectors + 4 * j + lane % 4;
}

// Rows of a depthwise stage's results whose windows lie in as many groups of `depth` rows of the input, from the same
// row on, as one window takes: they share what is interleaved, and each has its filters packed where its window lies.
inline int64_t depthwise_variants(const EdgeconvConvShape& shape, int64_t depth) {
  if (shape.dilation_height != 1 || shape.kernel_height <= depth) return 1;
  return (round_up(shape.kernel_height, depth) - shape.kernel_height) / shape.stride_height + 1;
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_BLOCKS_H_
