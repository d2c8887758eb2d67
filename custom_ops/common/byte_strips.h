// Strips of bytes (patch_strips.h): an element is four or eight bytes that one step of a register tile takes together.
//
//   ChannelSource  the same position of neighbouring channels
//   ColumnSource   neighbouring columns of the window in one channel: for filters of few channels, of which the other
//                  form would leave most bytes empty
//
// Bytes are brought to the unsigned domain: int8 is flipped by 0x80. A byte without a channel or column is 0, in the
// filters, too. The types Simd and Bytes are named before this file is included.
#ifndef EDGECONV_COMMON_BYTE_STRIPS_H_
#define EDGECONV_COMMON_BYTE_STRIPS_H_

#include "common/byte_vectors.h"
#include "common/patch_strips.h"

namespace {

// A group's input.
struct ByteInput {
  const uint8_t* x;    // (channels, height, width)
  const uint8_t* end;  // of what may be read
  uint8_t flip;        // 0x80 for int8, else 0
  uint8_t zero;        // what stands in the padding, flipped
  uint8_t* line;       // kLineBytes and kLineSlack of scratch
};

template <typename Element>
inline Element element_mask(int64_t bytes) {
  return bytes >= static_cast<int64_t>(sizeof(Element)) ? ~Element{0} : (Element{1} << (8 * bytes)) - 1;
}

template <typename Element>
inline Element repeat_byte(uint8_t byte) {
  return ~Element{0} / 255 * byte;
}

template <typename Element>
inline void fill_elements(Element* to, int64_t count, Element value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// The last vector overlaps the one before, so that nothing is written beyond the end.
template <typename Element>
inline void copy_elements(const Element* from, int64_t count, Element* to) {
  constexpr int64_t kWide = 64 / sizeof(Element), kSmall = 16 / sizeof(Element);
  if (count >= kWide) {
    for (int64_t i = 0; i + kWide < count; i += kWide) __builtin_memcpy(to + i, from + i, 64);
    __builtin_memcpy(to + count - kWide, from + count - kWide, 64);
  } else if (count >= kSmall) {
    for (int64_t i = 0; i + kSmall < count; i += kSmall) __builtin_memcpy(to + i, from + i, 16);
    __builtin_memcpy(to + count - kSmall, from + count - kSmall, 16);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

inline void copy_flipped(const uint8_t* __restrict from, int64_t count, uint8_t flip, uint8_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i] ^ flip);
}

// Every `stride`th byte.
inline void copy_flipped(const uint8_t* __restrict from, int64_t stride, int64_t count, uint8_t flip,
                         uint8_t* __restrict to) {
  if (stride == 1) {
    copy_flipped(from, count, flip, to);
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[2 * i] ^ flip);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i * stride] ^ flip);
  }
}

template <typename Element>
inline void copy_elements(const Element* from, int64_t stride, int64_t count, Element* to) {
  if (stride == 1) {
    copy_elements(from, count, to);
  } else if (stride == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

template <typename Element>
struct ChannelSource {
  static constexpr int kBytes = sizeof(Element);
  static constexpr int kVector = 16;  // positions that Bytes interleaves
  const EdgeconvConvShape& shape;     // in bytes
  const PositionBlock& block;
  const ByteInput& input;

  // Of one element's channels.
  struct Planes {
    const uint8_t* of[kBytes];  // one that there is not is the first one again
    Element mask, padding;
  };

  Planes planes_of(int64_t channel) const {
    const int64_t area = shape.in_height * shape.in_width, first = channel * kBytes;
    const int64_t present = shape.in_channels / shape.group - first;
    Planes planes;
    for (int b = 0; b < kBytes; ++b) planes.of[b] = input.x + (first + (b < present ? b : 0)) * area;
    planes.mask = element_mask<Element>(present);
    planes.padding = repeat_byte<Element>(input.zero) & planes.mask;
    return planes;
  }

  // Elements of `count` consecutive positions from `at` on; nothing is written beyond.
  void interleave(const Planes& planes, int64_t at, int64_t count, Element* to) const {
    if (count >= kVector) {
      for (int64_t i = 0; i + kVector < count; i += kVector) Bytes::interleave(planes.of, at + i, input.flip, to + i);
      Bytes::interleave(planes.of, at + count - kVector, input.flip, to + count - kVector);
    } else if (count > 0) {
      Element elements[kVector];
      const uint8_t* last = planes.of[0];
      for (int b = 1; b < kBytes; ++b) last = planes.of[b] > last ? planes.of[b] : last;
      if (input.end - last >= at + kVector) {
        Bytes::interleave(planes.of, at, input.flip, elements);
      } else {
        PlainBytes::interleave_first(planes.of, at, count, input.flip, elements);
      }
      for (int64_t i = 0; i < count; ++i) to[i] = elements[i];
    }
    if (planes.mask != ~Element{0}) {
      for (int64_t i = 0; i < count; ++i) to[i] &= planes.mask;
    }
  }

  Element* line() const { return reinterpret_cast<Element*>(input.line); }

  __attribute__((noinline)) void fill(int64_t channel, const InputRows& rows, int64_t tap, int64_t taps,
                                      Element* to) const {
    const Planes planes = planes_of(channel);
    const int64_t shift = block.column * shape.stride_width + tap * shape.dilation_width - shape.pad_left;
    const int64_t farthest = shift + (taps - 1) * shape.dilation_width, width = shape.in_width;
    const bool whole_rows = shape.stride_width == 1 && rows.step == 1 && block.columns == width;
    if (whole_rows && shift >= -width && farthest <= width && (rows.count + 2) * width * kBytes <= kLineBytes) {
      fill_whole_rows(planes, rows, shift, taps, to);
    } else {
      fill_rows(planes, rows, shift, taps, to);
    }
  }

  // Rows that follow each other in the input and in the strips are moved as one, and what has slipped in from the
  // neighbouring row is padding.
  void fill_whole_rows(const Planes& planes, const InputRows& rows, int64_t shift, int64_t taps, Element* to) const {
    const int64_t width = shape.in_width;
    int64_t begin = rows.first < 0 ? -rows.first : 0, end = shape.in_height - rows.first;
    if (end > rows.count) end = rows.count;
    if (end < begin) begin = end = 0;
    const int64_t at = (rows.first + begin) * width, count = (end - begin) * width;
    const bool direct = taps == 1 && shift == 0;
    Element* const middle = line() + width;
    interleave(planes, at, count, direct ? to + begin * width : middle);
    for (int64_t j = 0; j < taps; ++j, shift += shape.dilation_width, to += rows.count * width) {
      if (!direct) copy_elements(middle + shift, count, to + begin * width);
      fill_elements(to, begin * width, planes.padding);
      fill_elements(to + end * width, (rows.count - end) * width, planes.padding);
      const int64_t outside = shift < 0 ? -shift : shift;
      Element* edge = to + begin * width + (shift < 0 ? 0 : width - shift);
      for (int64_t r = begin; r < end; ++r, edge += width) fill_elements(edge, outside, planes.padding);
    }
  }

  void fill_rows(const Planes& planes, const InputRows& rows, int64_t first, int64_t taps, Element* to) const {
    const int64_t stride = shape.stride_width, dilation = shape.dilation_width;
    const int64_t columns = (block.columns - 1) * stride + (taps - 1) * dilation + 1;
    const int64_t strip = rows.count * block.columns;
    const bool through_line = columns * kBytes <= kLineBytes;
    const RowSpan span(shape.in_width, first, 1, columns);
    if (through_line) {
      fill_elements(line(), span.begin, planes.padding);
      fill_elements(line() + span.end, columns - span.end, planes.padding);
    }
    for (int64_t r = 0; r < rows.count; ++r, to += block.columns) {
      const int64_t row = rows.first + r * rows.step;
      const bool inside = row >= 0 && row < shape.in_height;
      if (inside && through_line) {
        interleave(planes, row * shape.in_width + first + span.begin, span.end - span.begin, line() + span.begin);
      }
      for (int64_t j = 0; j < taps; ++j) {
        Element* const strip_row = to + j * strip;
        if (!inside) {
          fill_elements(strip_row, block.columns, planes.padding);
        } else if (through_line) {
          copy_elements(line() + j * dilation, stride, block.columns, strip_row);
        } else {
          gather(planes, row, first + j * dilation, strip_row);
        }
      }
    }
  }

  void gather(const Planes& planes, int64_t row, int64_t column, Element* to) const {
    for (int64_t i = 0; i < block.columns; ++i, column += shape.stride_width) {
      to[i] = planes.padding;
      if (column >= 0 && column < shape.in_width) interleave(planes, row * shape.in_width + column, 1, to + i);
    }
  }
};

template <typename Element>
struct ColumnSource {
  static constexpr int kBytes = sizeof(Element);
  static constexpr int kPositions = 16 / kBytes;  // of one shuffle
  const EdgeconvConvShape& shape;                 // in bytes
  const PositionBlock& block;
  const ByteInput& input;

  // Where one element's bytes come from, relative to the first of kPositions.
  struct Pick {
    uint8_t shuffle[16];
    Element mask;
  };

  Pick pick_of(int64_t present) const {
    Pick pick;
    for (int i = 0; i < 16; ++i) {
      const int64_t from = i / kBytes * shape.stride_width + i % kBytes * shape.dilation_width;
      pick.shuffle[i] = i % kBytes < present ? static_cast<uint8_t>(from) : 0x80;
    }
    pick.mask = element_mask<Element>(present);
    return pick;
  }

  static Element load(const uint8_t* from) {
    Element element;
    __builtin_memcpy(&element, from, sizeof(element));
    return element;
  }

  // Elements at `count` positions, of which the first one's bytes begin at `from`.
  void spread(const uint8_t* from, const Pick& pick, int64_t count, Element* to) const {
    const int64_t stride = shape.stride_width, dilation = shape.dilation_width;
    const bool shuffles = (kPositions - 1) * stride + (kBytes - 1) * dilation < 16;
    if (Bytes::kHasShuffle && shuffles && count >= kPositions) {
      for (int64_t i = 0; i + kPositions < count; i += kPositions)
        Bytes::shuffle(from + i * stride, pick.shuffle, to + i);
      const int64_t last = count - kPositions;
      Bytes::shuffle(from + last * stride, pick.shuffle, to + last);
    } else if (dilation == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = load(from + i * stride) & pick.mask;
    } else {
      for (int64_t i = 0; i < count; ++i, from += stride) {
        Element element = 0;
        for (int b = 0; b < kBytes; ++b) element |= static_cast<Element>(from[b * dilation]) << (8 * b);
        to[i] = element & pick.mask;
      }
    }
  }

  // The element taps [tap, tap + taps) of `channel`.
  __attribute__((noinline)) void fill(int64_t channel, const InputRows& rows, int64_t tap, int64_t taps,
                                      Element* to) const {
    const uint8_t* plane = input.x + channel * shape.in_height * shape.in_width;
    const int64_t stride = shape.stride_width, reach = kBytes * shape.dilation_width;
    const int64_t first = block.column * stride + tap * reach - shape.pad_left;
    const int64_t columns = (block.columns - 1) * stride + taps * reach;
    const int64_t strip = rows.count * block.columns;
    const bool through_line = columns <= kLineBytes;
    const int64_t last_bytes = shape.kernel_width - (tap + taps - 1) * kBytes;
    const Pick whole = pick_of(kBytes), last = pick_of(last_bytes);
    const RowSpan span(shape.in_width, first, 1, columns);
    if (through_line) {
      fill_elements(input.line, span.begin, input.zero);
      fill_elements(input.line + span.end, columns - span.end + kLineSlack, input.zero);
    }
    for (int64_t r = 0; r < rows.count; ++r, to += block.columns) {
      const int64_t row = rows.first + r * rows.step;
      const bool inside = row >= 0 && row < shape.in_height;
      const uint8_t* from = plane + row * shape.in_width + first;
      if (inside && through_line) {
        copy_flipped(from + span.begin, span.end - span.begin, input.flip, input.line + span.begin);
      }
      for (int64_t j = 0; j < taps; ++j) {
        const Pick& pick = j == taps - 1 ? last : whole;
        Element* const strip_row = to + j * strip;
        if (!inside) {
          fill_elements(strip_row, block.columns, static_cast<Element>(repeat_byte<Element>(input.zero) & pick.mask));
        } else if (through_line) {
          spread(input.line + j * reach, pick, block.columns, strip_row);
        } else {
          gather(from + j * reach, first + j * reach, pick.mask, strip_row);
        }
      }
    }
  }

  void gather(const uint8_t* from, int64_t column, Element mask, Element* to) const {
    for (int64_t i = 0; i < block.columns; ++i, from += shape.stride_width, column += shape.stride_width) {
      Element element = 0;
      for (int b = 0; b < kBytes; ++b) {
        const int64_t at = column + b * shape.dilation_width;
        const bool inside = at >= 0 && at < shape.in_width;
        const uint8_t byte = inside ? static_cast<uint8_t>(from[b * shape.dilation_width] ^ input.flip) : input.zero;
        element |= static_cast<Element>(byte) << (8 * b);
      }
      to[i] = element & mask;
    }
  }
};

}  // namespace

#endif  // EDGECONV_COMMON_BYTE_STRIPS_H_
