#include "common/winograd_packing.h"

#include "common/float16.h"

namespace {

// U = G g G' of one 3 x 3 filter, in float64: rounded once.
template <typename Element>
void transform_filter(const Element* g, float* u) {
  double rows[4][3];
  for (int c = 0; c < 3; ++c) {
    const double a = element_to_float(g[c]), b = element_to_float(g[3 + c]), d = element_to_float(g[6 + c]);
    rows[0][c] = a;
    rows[1][c] = (a + b + d) / 2;
    rows[2][c] = (a - b + d) / 2;
    rows[3][c] = d;
  }
  for (int r = 0; r < 4; ++r) {
    u[4 * r] = static_cast<float>(rows[r][0]);
    u[4 * r + 1] = static_cast<float>((rows[r][0] + rows[r][1] + rows[r][2]) / 2);
    u[4 * r + 2] = static_cast<float>((rows[r][0] - rows[r][1] + rows[r][2]) / 2);
    u[4 * r + 3] = static_cast<float>(rows[r][2]);
  }
}

template <typename Element>
void pack(const EdgeconvConvShape& shape, int64_t padded_channels, int64_t tile_rows, const Element* w, float* packed) {
  const int64_t in_channels = shape.in_channels / shape.group;
  const int64_t group_channels = shape.out_channels / shape.group;
  for (int64_t group = 0; group < shape.group; ++group, packed += 16 * padded_channels * in_channels) {
    for (int64_t channel = 0; channel < padded_channels; ++channel) {
      const int64_t row = channel % tile_rows;
      for (int64_t in = 0; in < in_channels; ++in) {
        float u[16] = {};
        if (channel < group_channels) {
          transform_filter(w + ((group * group_channels + channel) * in_channels + in) * 9, u);
        }
        for (int product = 0; product < 16; ++product) {
          packed[edgeconv_winograd_offset(in_channels, padded_channels, product, channel - row) + in * tile_rows +
                 row] = u[product];
        }
      }
    }
  }
}

}  // namespace

extern "C" {

int edgeconv_winograd_fits(const EdgeconvConvShape* shape) {
  // Fewer channels leave the transforms more work than they save; more leave the scratch too small for a vector.
  constexpr int64_t kLeast = 16, kMost = 2048;
  const int64_t in_channels = shape->in_channels / shape->group, out_channels = shape->out_channels / shape->group;
  return shape->kernel_height == 3 && shape->kernel_width == 3 && shape->stride_height == 1 &&
         shape->stride_width == 1 && shape->dilation_height == 1 && shape->dilation_width == 1 &&
         in_channels >= kLeast && in_channels <= kMost && out_channels >= kLeast;
}

size_t edgeconv_winograd_floats(const EdgeconvConvShape* shape, int64_t padded_channels) {
  return static_cast<size_t>(16) * padded_channels * shape->in_channels;
}

void edgeconv_winograd_pack(const EdgeconvConvShape* shape, int64_t padded_channels, int64_t tile_rows,
                            int element_type, const void* w, float* packed) {
  if (element_type == EDGECONV_FLOAT16) {
    pack(*shape, padded_channels, tile_rows, static_cast<const uint16_t*>(w), packed);
  } else {
    pack(*shape, padded_channels, tile_rows, static_cast<const float*>(w), packed);
  }
}

}  // extern "C"
