// The input as activations: where it lies if that is how the tile wants it, else a copy in the scratch; the ring of
// rows that the depthwise stage sees; and the way back from activations to bytes.
#ifndef EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_INPUT_H_
#define EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_INPUT_H_

#include "common/byte_vectors.h"
#include "qlinear_mobile/qlinear_mobile_tile.h"

namespace {

// What a thread remembers between tasks, at the beginning of its scratch.
struct Strand {
  int64_t ready, item, step;
  int64_t row;  // of the depthwise stage's input, the first that is not in the ring
};

struct Call {
  const EdgeconvQLinearMobileParams* params;
  const EdgeconvQLinearMobilePlan* plan;
  const EdgeconvQLinearMobileArguments* arguments;
  uint8_t* scratch;
  Strand* strand;
  uint8_t flip;    // what makes a byte unsigned
  Element x_zero;  // the activation of X's zero-point
  mutable Dots::Tiles tiles;

  Call(const EdgeconvQLinearMobileParams* given, const EdgeconvQLinearMobilePlan* work,
       const EdgeconvQLinearMobileArguments* with, void* memory)
      : params(given),
        plan(work),
        arguments(with),
        scratch(static_cast<uint8_t*>(memory)),
        strand(static_cast<Strand*>(memory)),
        flip(given->type == EDGECONV_INT8 ? 0x80 : 0),
        x_zero(activation(given->x.zero_point)) {}

  // Of a zero-point, in the type.
  Element activation(int32_t value) const {
    return static_cast<Element>(value + (params->type == EDGECONV_INT8 ? 128 : 0) - Dots::kOffset);
  }
  Element activation_of_byte(uint8_t byte) const {
    return static_cast<Element>(static_cast<int>(byte ^ flip) - Dots::kOffset);
  }
};

// A dense stage's input from a row of its results on.
struct InputView {
  DotInput input;
  int64_t pitch;  // activations of a row
  bool flat;      // rows of results follow each other like positions of a row
};

inline void fill(Element* to, Element value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// `count` pixels of channels-last input, with `pad` zeros (of the grid) behind each.
inline void copy_pixels(const Call& call, const uint8_t* from, int64_t count, int64_t channels, int64_t padded,
                        Element* to) {
  if (channels == padded) {
    for (int64_t i = 0; i < count * channels; ++i) to[i] = call.activation_of_byte(from[i]);
    return;
  }
  for (int64_t i = 0; i < count; ++i, from += channels, to += padded) {
    for (int64_t c = 0; c < channels; ++c) to[c] = call.activation_of_byte(from[c]);
    for (int64_t c = channels; c < padded; ++c) to[c] = call.x_zero;
  }
}

// The same from planes.
inline void copy_planes(const Call& call, const uint8_t* from, int64_t plane, int64_t count, int64_t channels,
                        int64_t padded, Element* to) {
  int64_t done = 0;
  if (sizeof(Element) == 1 && channels <= 4 && padded == 4) {
    const uint8_t* planes[4];
    for (int64_t c = 0; c < 4; ++c) planes[c] = from + least_of(c, channels - 1) * plane;
    const uint8_t flip = static_cast<uint8_t>(call.flip ^ Dots::kOffset);
    for (; done + 16 <= count; done += 16) {
      Bytes::interleave(planes, done, flip, reinterpret_cast<uint32_t*>(to + done * 4));
    }
  }
  for (int64_t c = 0; c < padded; ++c) {
    const uint8_t* const row = from + least_of(c, channels - 1) * plane;  // what has no channel has weights of 0
    for (int64_t i = done; i < count; ++i) to[i * padded + c] = call.activation_of_byte(row[i]);
  }
}

inline DotInput dot_input(const EdgeconvConvShape& shape, const Element* x, int64_t padded, int64_t pitch) {
  DotInput input;
  input.x = x;
  input.position_stride = shape.stride_width * padded;
  input.row_stride = shape.dilation_height * pitch;
  input.column_stride = shape.dilation_width * padded;
  input.rows = shape.kernel_height;
  // Neighbouring columns of the window are neighbours in memory.
  const bool joined = shape.dilation_width == 1;
  input.columns = joined ? 1 : shape.kernel_width;
  input.steps = (joined ? shape.kernel_width : 1) * padded / Dots::kDepth;
  return input;
}

inline bool is_flat(const EdgeconvConvShape& shape) {
  return shape.kernel_height == 1 && shape.kernel_width == 1 && shape.stride_height == 1 && shape.stride_width == 1 &&
         shape.out_width == shape.in_width;
}

// Of rows that view_input has copied before.
inline InputView same_view(const Call& call, int stage, int64_t item) {
  const EdgeconvConvShape& shape = call.params->stages[stage].shape;
  const int64_t padded = round_up(shape.in_channels, Dots::kDepth);
  InputView view;
  view.flat = is_flat(shape);
  view.pitch = call.plan->strip_pitch;
  const Element* x = reinterpret_cast<const Element*>(call.scratch + call.plan->strip);
  if (call.plan->strip_rows == 0) {
    view.pitch = shape.in_width * padded;
    x = reinterpret_cast<const Element*>(call.arguments->x) + item * shape.in_height * view.pitch;
  }
  view.input = dot_input(shape, x, padded, view.pitch);
  return view;
}

// The input of rows [first, last) of a dense stage's results.
inline InputView view_input(const Call& call, int stage, int64_t item, int64_t first, int64_t last) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  const EdgeconvConvShape& shape = call.params->stages[stage].shape;
  InputView view = same_view(call, stage, item);
  const int64_t top = first * shape.stride_height - shape.pad_top;
  if (plan.strip_rows == 0) {
    view.input.x += top * view.pitch;
    return view;
  }
  const int64_t rows = (last - first - 1) * shape.stride_height + (shape.kernel_height - 1) * shape.dilation_height + 1;
  const int64_t channels = shape.in_channels, padded = round_up(channels, Dots::kDepth);
  const int64_t columns = plan.strip_pitch / padded, height = shape.in_height, width = shape.in_width;
  const int64_t inside = least_of(width, columns - shape.pad_left);
  Element* to = reinterpret_cast<Element*>(call.scratch + plan.strip);
  for (int64_t row = top; row < top + rows; ++row, to += plan.strip_pitch) {
    if (row < 0 || row >= height || inside <= 0) {
      fill(to, call.x_zero, plan.strip_pitch);
      continue;
    }
    Element* const begin = to + shape.pad_left * padded;
    fill(to, call.x_zero, shape.pad_left * padded);
    const uint8_t* const x = call.arguments->x;
    if (call.params->x_channels_last) {
      copy_pixels(call, x + (item * height + row) * width * channels, inside, channels, padded, begin);
    } else {
      const int64_t plane = height * width;
      copy_planes(call, x + item * channels * plane + row * width, plane, inside, channels, padded, begin);
    }
    fill(begin + inside * padded, call.x_zero, (columns - shape.pad_left - inside) * padded);
  }
  return view;
}

// The padding of the ring, once: what the rows do not overwrite.
inline void prepare_ring(const Call& call) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const bool expanded = plan.first == EDGECONV_MOBILE_DENSE;
  const Element zero =
      expanded ? call.activation(call.params->stages[EDGECONV_MOBILE_DENSE].y.zero_point) : call.x_zero;
  fill(reinterpret_cast<Element*>(call.scratch + plan.zeros), zero, plan.ring_pitch);
  const bool by_rows = plan.order == EDGECONV_MOBILE_BY_ROWS;
  const int64_t rows = plan.ring_rows * (by_rows ? plan.packed[EDGECONV_MOBILE_DEPTHWISE].blocks : 1);
  const int64_t left = shape.pad_left * kBlock, right = left + shape.in_width * kBlock;
  Element* to = reinterpret_cast<Element*>(call.scratch + plan.ring);
  for (int64_t row = 0; row < rows; ++row, to += plan.ring_pitch) {
    fill(to, zero, left);
    fill(to + right, zero, plan.ring_pitch - right);
  }
}

// Where the pixels of rows [first, last) go in a block's ring.
inline const int32_t* find_places(const Call& call, int64_t first, int64_t last) {
  const EdgeconvQLinearMobilePlan& plan = *call.plan;
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  int32_t* const places = reinterpret_cast<int32_t*>(call.scratch + plan.places);
  int32_t* to = places;
  for (int64_t row = first; row < last; ++row) {
    const int64_t from = row % plan.ring_rows * plan.ring_pitch + shape.pad_left * kBlock;
    for (int64_t column = 0; column < shape.in_width; ++column) *to++ = static_cast<int32_t>(from + column * kBlock);
  }
  return places;
}

// Rows [first, last) of the call's input in one block of channels.
inline void copy_to_ring(const Call& call, int64_t item, int64_t first, int64_t last, const ChannelBlock& block,
                         Element* ring, const int32_t* places) {
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const int64_t channels = shape.in_channels, width = shape.in_width, count = (last - first) * width;
  const int64_t present = least_of(block.vectors * Dots::kLanes, channels - block.first);
  const int vectors = static_cast<int>(block.vectors);
  if (call.params->x_channels_last) {
    const uint8_t* from = call.arguments->x + (item * shape.in_height + first) * width * channels + block.first;
    for (int64_t i = 0; i < count; ++i, from += channels) {
      Dots::store(ring + places[i], Dots::load_bytes(from, present, call.flip, vectors));
    }
    return;
  }
  const int64_t plane = shape.in_height * width;
  const uint8_t* const from = call.arguments->x + (item * channels + block.first) * plane + first * width;
  for (int64_t i = 0; i < count; ++i) {
    uint8_t pixel[kBlock];
    for (int64_t c = 0; c < present; ++c) pixel[c] = from[c * plane + i];
    Dots::store(ring + places[i], Dots::load_bytes(pixel, present, call.flip, vectors));
  }
}

// Results of the depthwise stage, where it is the last.
inline void copy_activations(const Call& call, int64_t item, int64_t position, int64_t count, const Element* from,
                             int64_t stride) {
  const EdgeconvConvShape& shape = call.params->stages[EDGECONV_MOBILE_DEPTHWISE].shape;
  const int64_t channels = shape.out_channels, plane = shape.out_height * shape.out_width;
  const auto byte = [&](Element value) {
    return static_cast<uint8_t>((static_cast<int>(value) + Dots::kOffset) ^ call.flip);
  };
  if (call.params->y_channels_last) {
    uint8_t* to = call.arguments->y + (item * plane + position) * channels;
    for (int64_t i = 0; i < count; ++i, from += stride, to += channels) {
      for (int64_t c = 0; c < channels; ++c) to[c] = byte(from[c]);
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    uint8_t* const to = call.arguments->y + (item * channels + c) * plane + position;
    for (int64_t i = 0; i < count; ++i) to[i] = byte(from[i * stride + c]);
  }
}

}  // namespace

#endif  // EDGECONV_QLINEAR_MOBILE_QLINEAR_MOBILE_INPUT_H_
