#include "common/conv_shape.h"

#include <cstdio>

namespace {

// Far beyond any tensor, and small enough that no sum or product of two sizes below overflows 64 bits.
constexpr int64_t kMaxSize = int64_t{1} << 30;

struct DimsText {
  char text[128];
  DimsText(const int64_t* dims, size_t rank) {
    int used = std::snprintf(text, sizeof(text), "(");
    for (size_t i = 0; i < rank && used < static_cast<int>(sizeof(text)) - 24; ++i) {
      used += std::snprintf(text + used, sizeof(text) - used, i ? ", %lld" : "%lld", static_cast<long long>(dims[i]));
    }
    std::snprintf(text + used, sizeof(text) - used, ")");
  }
};

bool in_range(int64_t value, int64_t lowest) { return value >= lowest && value <= kMaxSize; }

long long as_long(int64_t value) { return value; }

}  // namespace

extern "C" {

void edgeconv_conv_attributes_init(EdgeconvConvAttributes* attributes) {
  *attributes = {{0, 0}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1};
}

int edgeconv_conv_filter_shape(const EdgeconvConvAttributes* attributes, const int64_t* w_dims, size_t w_rank,
                               EdgeconvConvShape* shape, EdgeconvStatus* status) {
  const int invalid = EDGECONV_INVALID_ARGUMENT;
  const DimsText w_text(w_dims, w_rank);
  if (w_rank != 4) {
    return edgeconv_set_status(status, invalid, "W has shape %s: expected rank 4 (M, C/group, kH, kW)", w_text.text);
  }
  for (int axis = 0; axis < 4; ++axis) {
    if (!in_range(w_dims[axis], 1)) {
      return edgeconv_set_status(status, invalid, "W has shape %s: every dimension must be positive", w_text.text);
    }
  }
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t stated = attributes->kernel_shape[axis];
    if (stated != 0 && stated != w_dims[2 + axis]) {
      return edgeconv_set_status(status, invalid, "kernel_shape is [%lld, %lld], W has shape %s: they must agree",
                                 as_long(attributes->kernel_shape[0]), as_long(attributes->kernel_shape[1]),
                                 w_text.text);
    }
    if (!in_range(attributes->strides[axis], 1)) {
      return edgeconv_set_status(status, invalid, "strides are [%lld, %lld]: both must be positive",
                                 as_long(attributes->strides[0]), as_long(attributes->strides[1]));
    }
    if (!in_range(attributes->dilations[axis], 1)) {
      return edgeconv_set_status(status, invalid, "dilations are [%lld, %lld]: both must be positive",
                                 as_long(attributes->dilations[0]), as_long(attributes->dilations[1]));
    }
  }
  for (int64_t pad : attributes->pads) {
    if (!in_range(pad, 0)) {
      return edgeconv_set_status(status, invalid, "pads are [%lld, %lld, %lld, %lld]: none may be negative",
                                 as_long(attributes->pads[0]), as_long(attributes->pads[1]),
                                 as_long(attributes->pads[2]), as_long(attributes->pads[3]));
    }
  }
  if (attributes->group < 1 || w_dims[0] % attributes->group != 0) {
    return edgeconv_set_status(status, invalid, "W has %lld filters and group is %lld: group must divide them",
                               as_long(w_dims[0]), as_long(attributes->group));
  }
  *shape = {};
  shape->out_channels = w_dims[0];
  shape->group = attributes->group;
  shape->in_channels = w_dims[1] * attributes->group;
  shape->kernel_height = w_dims[2];
  shape->kernel_width = w_dims[3];
  shape->stride_height = attributes->strides[0];
  shape->stride_width = attributes->strides[1];
  shape->pad_top = attributes->pads[0];
  shape->pad_left = attributes->pads[1];
  shape->dilation_height = attributes->dilations[0];
  shape->dilation_width = attributes->dilations[1];
  return status->code = EDGECONV_OK;
}

int edgeconv_conv_input_shape(const EdgeconvConvAttributes* attributes, const int64_t* x_dims, size_t x_rank,
                              EdgeconvConvShape* shape, EdgeconvStatus* status) {
  const int invalid = EDGECONV_INVALID_ARGUMENT;
  const DimsText x_text(x_dims, x_rank);
  if (x_rank != 4) {
    return edgeconv_set_status(status, invalid, "X has shape %s: expected rank 4 (N, C, H, W)", x_text.text);
  }
  for (int axis = 0; axis < 4; ++axis) {
    if (!in_range(x_dims[axis], 0)) {
      return edgeconv_set_status(status, invalid, "X has shape %s: a dimension is out of range", x_text.text);
    }
  }
  const int64_t group = shape->group;
  const int64_t per_group = shape->in_channels / group;
  if (x_dims[1] % group != 0) {
    return edgeconv_set_status(status, invalid, "X has %lld channels and group is %lld: group must divide them",
                               as_long(x_dims[1]), as_long(group));
  }
  if (x_dims[1] != shape->in_channels) {
    return edgeconv_set_status(status, invalid,
                               "W has %lld channels per group, X has %lld and group is %lld: expected %lld",
                               as_long(per_group), as_long(x_dims[1]), as_long(group), as_long(x_dims[1] / group));
  }
  shape->batch = x_dims[0];
  shape->in_height = x_dims[2];
  shape->in_width = x_dims[3];
  shape->out_height =
      edgeconv_conv_output_size(shape->in_height, shape->kernel_height, attributes->pads[0] + attributes->pads[2],
                                shape->stride_height, shape->dilation_height);
  shape->out_width =
      edgeconv_conv_output_size(shape->in_width, shape->kernel_width, attributes->pads[1] + attributes->pads[3],
                                shape->stride_width, shape->dilation_width);
  if (shape->out_height < 1 || shape->out_width < 1) {
    return edgeconv_set_status(
        status, invalid,
        "X has shape %s, pads are [%lld, %lld, %lld, %lld]: too small for a %lld x %lld kernel with dilations "
        "[%lld, %lld]",
        x_text.text, as_long(attributes->pads[0]), as_long(attributes->pads[1]), as_long(attributes->pads[2]),
        as_long(attributes->pads[3]), as_long(shape->kernel_height), as_long(shape->kernel_width),
        as_long(shape->dilation_height), as_long(shape->dilation_width));
  }
  return status->code = EDGECONV_OK;
}

int64_t edgeconv_conv_output_size(int64_t size, int64_t kernel, int64_t pads, int64_t stride, int64_t dilation) {
  const int64_t slack = size + pads - (dilation * (kernel - 1) + 1);
  return slack < 0 ? 0 : slack / stride + 1;
}

}  // extern "C"
