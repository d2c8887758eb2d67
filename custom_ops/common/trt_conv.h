// What the plugins of convolution-like operators share: attributes, shapes, formats, values for each channel.
#ifndef EDGECONV_COMMON_TRT_CONV_H_
#define EDGECONV_COMMON_TRT_CONV_H_

#include <vector>

#include "common/conv_shape.h"
#include "common/trt_plugin.h"

namespace edgeconv::trt {

// kernel_shape, strides, pads, dilations, group.
std::vector<FieldSpec> conv_attribute_specs();
EdgeconvConvAttributes read_conv_attributes(const Fields& fields);

// The output's dimensions. What is known of the inputs' dimensions is checked.
void conv_output_shape(const EdgeconvConvAttributes& attributes, const nvinfer1::DimsExprs& x,
                       const nvinfer1::DimsExprs& w, nvinfer1::DimsExprs* y, nvinfer1::IExprBuilder& builder);

EdgeconvConvShape conv_shape(const EdgeconvConvAttributes& attributes, const nvinfer1::Dims& x,
                             const nvinfer1::Dims& w);

// Whether activations of this type may have this format: linear; channels last, which for float16 is kHWC8 and for int8
// kHWC16.
bool is_activation_format(nvinfer1::DataType type, nvinfer1::TensorFormat format);
EdgeconvCudaFormat cuda_format(nvinfer1::TensorFormat format, int64_t x_channels, int64_t y_channels);

// EDGECONV_FLOAT32 or EDGECONV_FLOAT16; throws Error for another type.
int32_t float_type(const char* name, nvinfer1::DataType type);
// Throws Error unless input `name` has this type.
void check_type(const char* name, nvinfer1::DataType type, nvinfer1::DataType wanted, const char* because = "");

// 0 where `desc` is one value, 1 where it is one for each channel.
int64_t channel_stride(const char* name, const nvinfer1::PluginTensorDesc& desc, int64_t channels);
void check_bias(const nvinfer1::PluginTensorDesc* desc, nvinfer1::DataType type, int64_t channels);

// IDimensionExpr with arithmetic; what is constant is computed at once.
class Size {
 public:
  Size(const nvinfer1::IDimensionExpr* expression, nvinfer1::IExprBuilder& builder)
      : expression_(expression), builder_(&builder) {}
  Size(int64_t value, nvinfer1::IExprBuilder& builder) : expression_(builder.constant(value)), builder_(&builder) {}
  Size operator+(int64_t value) const;
  Size operator-(const Size& other) const;
  Size operator*(int64_t value) const;
  Size floor_divided_by(int64_t value) const;
  // Of the dimension, or `unknown`.
  int64_t value(int64_t unknown) const;
  bool is_constant() const { return expression_ != nullptr && expression_->isConstant(); }
  // Throws Error where TensorRT gave none.
  const nvinfer1::IDimensionExpr* get() const;

 private:
  Size operation(nvinfer1::DimensionOperation operation, const Size& other) const;
  const nvinfer1::IDimensionExpr* expression_;
  nvinfer1::IExprBuilder* builder_;
};

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_CONV_H_
