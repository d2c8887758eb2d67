#include "common/trt_conv.h"

#include <algorithm>

namespace edgeconv::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::DimsExprs;
using nvinfer1::TensorFormat;

constexpr int32_t kRank = 4;

int64_t rounded_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void check_rank(const char* name, int32_t rank, const char* axes) {
  if (rank == kRank) return;
  throw Error{std::string(name) + " has rank " + std::to_string(rank) + ": expected " + std::to_string(kRank) + ", " +
              axes};
}

// One axis of floor((size + pads - (dilation * (kernel - 1) + 1)) / stride) + 1.
Size output_size(const Size& size, const Size& kernel, int64_t pads, int64_t stride, int64_t dilation) {
  const Size slack = kernel.is_constant() ? size + (pads + dilation - 1 - dilation * kernel.value(0))
                                          : size + (pads + dilation - 1) - kernel * dilation;
  return slack.floor_divided_by(stride) + 1;
}

}  // namespace

std::vector<FieldSpec> conv_attribute_specs() {
  return {{"kernel_shape", FieldKind::kInts, 2},
          {"strides", FieldKind::kInts, 2},
          {"pads", FieldKind::kInts, 4},
          {"dilations", FieldKind::kInts, 2},
          {"group", FieldKind::kInts, 1}};
}

EdgeconvConvAttributes read_conv_attributes(const Fields& fields) {
  EdgeconvConvAttributes attributes;
  edgeconv_conv_attributes_init(&attributes);
  fields.get("kernel_shape", attributes.kernel_shape);
  fields.get("strides", attributes.strides);
  fields.get("pads", attributes.pads);
  fields.get("dilations", attributes.dilations);
  fields.get("group", &attributes.group);
  const auto check_all = [](const char* name, const int64_t* values, size_t count, int64_t least) {
    if (std::all_of(values, values + count, [&](int64_t value) { return value >= least; })) return;
    throw Error{std::string(name) + " has " + std::to_string(*std::min_element(values, values + count)) +
                ": the least is " + std::to_string(least)};
  };
  if (fields.has("kernel_shape")) check_all("kernel_shape", attributes.kernel_shape, 2, 1);
  check_all("strides", attributes.strides, 2, 1);
  check_all("pads", attributes.pads, 4, 0);
  check_all("dilations", attributes.dilations, 2, 1);
  check_all("group", &attributes.group, 1, 1);
  return attributes;
}

void conv_output_shape(const EdgeconvConvAttributes& attributes, const DimsExprs& x, const DimsExprs& w, DimsExprs* y,
                       nvinfer1::IExprBuilder& builder) {
  check_rank("X", x.nbDims, "(N, C, H, W)");
  check_rank("W", w.nbDims, "(M, C/group, kH, kW)");
  std::vector<Size> x_sizes, w_sizes;
  int64_t x_dims[kRank], w_dims[kRank];
  bool w_known = true;
  // What is not known yet is taken for so large that it fits; TensorRT checks the rest of the shapes with the profile.
  constexpr int64_t kLarge = int64_t{1} << 24;
  for (int32_t axis = 0; axis < kRank; ++axis) {
    x_sizes.emplace_back(x.d[axis], builder);
    w_sizes.emplace_back(w.d[axis], builder);
    x_dims[axis] = x_sizes.back().value(kLarge);
    w_dims[axis] = w_sizes.back().value(-1);
    w_known = w_known && w_dims[axis] >= 0;
  }
  if (w_known) {
    EdgeconvStatus status = {};
    EdgeconvConvShape shape = {};
    check(edgeconv_conv_filter_shape(&attributes, w_dims, kRank, &shape, &status), status);
    if (!x_sizes[1].is_constant()) x_dims[1] = shape.in_channels;
    check(edgeconv_conv_input_shape(&attributes, x_dims, kRank, &shape, &status), status);
  }
  y->nbDims = kRank;
  y->d[0] = x_sizes[0].get();
  y->d[1] = w_sizes[0].get();
  for (int32_t axis = 0; axis < 2; ++axis) {
    const int64_t stated = attributes.kernel_shape[axis];
    const Size kernel = stated != 0 ? Size(stated, builder) : w_sizes[static_cast<size_t>(2 + axis)];
    y->d[2 + axis] =
        output_size(x_sizes[static_cast<size_t>(2 + axis)], kernel, attributes.pads[axis] + attributes.pads[2 + axis],
                    attributes.strides[axis], attributes.dilations[axis])
            .get();
  }
}

EdgeconvConvShape conv_shape(const EdgeconvConvAttributes& attributes, const nvinfer1::Dims& x,
                             const nvinfer1::Dims& w) {
  EdgeconvStatus status = {};
  EdgeconvConvShape shape = {};
  int64_t dims[nvinfer1::Dims::MAX_DIMS];
  std::copy(w.d, w.d + w.nbDims, dims);
  check(edgeconv_conv_filter_shape(&attributes, dims, static_cast<size_t>(w.nbDims), &shape, &status), status);
  std::copy(x.d, x.d + x.nbDims, dims);
  check(edgeconv_conv_input_shape(&attributes, dims, static_cast<size_t>(x.nbDims), &shape, &status), status);
  return shape;
}

bool is_activation_format(DataType type, TensorFormat format) {
  if (format == TensorFormat::kLINEAR) return true;
  switch (type) {
    case DataType::kFLOAT: return format == TensorFormat::kHWC;
    case DataType::kHALF: return format == TensorFormat::kHWC8;
    case DataType::kINT8: return format == TensorFormat::kHWC16;
    default: return false;
  }
}

EdgeconvCudaFormat cuda_format(TensorFormat format, int64_t x_channels, int64_t y_channels) {
  if (format == TensorFormat::kLINEAR) return {EDGECONV_NCHW, EDGECONV_CUDA_FLOAT32, x_channels, y_channels};
  const int64_t multiple = format == TensorFormat::kHWC8 ? 8 : format == TensorFormat::kHWC16 ? 16 : 1;
  return {EDGECONV_NHWC, EDGECONV_CUDA_FLOAT32, rounded_up(x_channels, multiple), rounded_up(y_channels, multiple)};
}

int32_t float_type(const char* name, DataType type) {
  if (type == DataType::kFLOAT) return EDGECONV_FLOAT32;
  if (type == DataType::kHALF) return EDGECONV_FLOAT16;
  throw Error{std::string(name) + " is " + type_name(type) + ": it must be float32 or float16"};
}

void check_type(const char* name, DataType type, DataType wanted, const char* because) {
  if (type == wanted) return;
  throw Error{std::string(name) + " is " + type_name(type) + ": it must be " + type_name(wanted) + because};
}

int64_t channel_stride(const char* name, const nvinfer1::PluginTensorDesc& desc, int64_t channels) {
  const nvinfer1::Dims& dims = desc.dims;
  if (dims.nbDims == 0 || (dims.nbDims == 1 && dims.d[0] == 1)) return 0;
  if (dims.nbDims == 1 && dims.d[0] == channels) return 1;
  throw Error{std::string(name) + " has shape " + to_text(dims) + ": expected a scalar, (1) or (" +
              std::to_string(channels) + ")"};
}

void check_bias(const nvinfer1::PluginTensorDesc* desc, nvinfer1::DataType type, int64_t channels) {
  if (desc == nullptr) return;
  check_type("B", desc->type, type);
  if (desc->dims.nbDims == 1 && desc->dims.d[0] == channels) return;
  throw Error{"B has shape " + to_text(desc->dims) + ": expected (" + std::to_string(channels) + ")"};
}

// Sizes.

Size Size::operation(DimensionOperation operation, const Size& other) const {
  return {builder_->operation(operation, *get(), *other.get()), *builder_};
}

Size Size::operator+(int64_t value) const {
  if (value == 0) return *this;
  if (is_constant()) return {expression_->getConstantValue() + value, *builder_};
  return value > 0 ? operation(DimensionOperation::kSUM, {value, *builder_})
                   : operation(DimensionOperation::kSUB, {-value, *builder_});
}

Size Size::operator-(const Size& other) const {
  if (other.is_constant()) return *this + -other.expression_->getConstantValue();
  return operation(DimensionOperation::kSUB, other);
}

Size Size::operator*(int64_t value) const {
  if (value == 1) return *this;
  if (is_constant()) return {expression_->getConstantValue() * value, *builder_};
  return operation(DimensionOperation::kPROD, {value, *builder_});
}

Size Size::floor_divided_by(int64_t value) const {
  if (value == 1) return *this;
  if (is_constant()) {
    const int64_t size = expression_->getConstantValue();
    return {(size < 0 ? size - value + 1 : size) / value, *builder_};
  }
  return operation(DimensionOperation::kFLOOR_DIV, {value, *builder_});
}

int64_t Size::value(int64_t unknown) const { return is_constant() ? expression_->getConstantValue() : unknown; }

const nvinfer1::IDimensionExpr* Size::get() const {
  if (expression_ == nullptr) throw Error{"TensorRT gave no expression for a dimension"};
  return expression_;
}

}  // namespace edgeconv::trt
