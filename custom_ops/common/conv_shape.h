// The geometry that every convolution-like operator shares: ONNX Conv's attributes, checked against the shapes of the
// input and the filters. Plain data, known to kernels and glue alike.
#ifndef EDGECONV_COMMON_CONV_SHAPE_H_
#define EDGECONV_COMMON_CONV_SHAPE_H_

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum EdgeconvElementType {
  EDGECONV_FLOAT32 = 0,
  EDGECONV_FLOAT16 = 1,
  EDGECONV_UINT8 = 2,
  EDGECONV_INT8 = 3,
} EdgeconvElementType;

// Attributes as the node states them; see edgeconv_conv_attributes_init for the defaults.
typedef struct EdgeconvConvAttributes {
  int64_t kernel_shape[2];
  int64_t strides[2];
  int64_t pads[4];  // top, left, bottom, right
  int64_t dilations[2];
  int64_t group;
} EdgeconvConvAttributes;

typedef struct EdgeconvConvShape {
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;
  int64_t pad_top, pad_left;
  int64_t dilation_height, dilation_width;
  int64_t group;
} EdgeconvConvShape;

// Defaults of ONNX Conv: kernel_shape 0 (taken from W), strides 1, pads 0, dilations 1, group 1.
void edgeconv_conv_attributes_init(EdgeconvConvAttributes* attributes);

// Checks the attributes and W's shape against each other and fills the fields of `shape` that do not depend on X.
// Returns EDGECONV_OK or another status code, with the cause in `status`.
int edgeconv_conv_filter_shape(const EdgeconvConvAttributes* attributes, const int64_t* w_dims, size_t w_rank,
                               EdgeconvConvShape* shape, EdgeconvStatus* status);

// Completes a `shape` that edgeconv_conv_filter_shape has filled with X's shape and the output size.
int edgeconv_conv_input_shape(const EdgeconvConvAttributes* attributes, const int64_t* x_dims, size_t x_rank,
                              EdgeconvConvShape* shape, EdgeconvStatus* status);

// floor((size + pads - (dilation * (kernel - 1) + 1)) / stride) + 1; below 1 when the kernel does not fit.
int64_t edgeconv_conv_output_size(int64_t size, int64_t kernel, int64_t pads, int64_t stride, int64_t dilation);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_CONV_SHAPE_H_
