// Glue between TensorRT and the 8-bit kervolution kernels: types, formats, shapes and memory. No math.
//
// X, W and Y are int8: plugins in TensorRT take no uint8. Tensors are on the device, and what the sums are made of and
// how they are scaled is decided on the host: the node must say it again in attributes, with the values that its inputs
// have (x_scale, x_zero_point, w_scale, y_scale, y_zero_point). The inputs of those names are not read, but for those
// that filters are packed with, w_scale and w_zero_point.
#include "common/trt_conv.h"
#include "common/trt_library.h"
#include "qlinear_kervolution/qlinear_kervolution_cuda.h"

namespace edgeconv::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

// In the order of ONNX QLinearConv.
enum Input : int32_t { kX, kXScale, kXZeroPoint, kW, kWScale, kWZeroPoint, kYScale, kYZeroPoint, kBias, kInputCount };

struct Definition {
  const char* name;
  EdgeconvQLinearKernel kernel;
};

constexpr Definition kDefinitions[] = {{"QLinearManhattanKervolution", EDGECONV_QLINEAR_MANHATTAN}};

DataType wanted_type(int32_t input) {
  const bool is_real = input == kXScale || input == kWScale || input == kYScale || input == kBias;
  return is_real ? DataType::kFLOAT : DataType::kINT8;
}

class QLinearKervolutionPlugin : public Plugin {
 public:
  QLinearKervolutionPlugin(const Operator& op, const PluginState& state);

 protected:
  void output_types(const DataType* inputs, int32_t count, DataType* outputs) const override;
  void output_shapes(const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs* outputs,
                     nvinfer1::IExprBuilder& builder) const override;
  bool supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs) const override;
  MemoryNeeds plan(const Tensors& tensors) override;
  void run(const Call& call) override;
  int32_t filters_input() const override { return kW; }

 private:
  float read_scale(const char* name) const;
  int32_t read_zero_point(const char* name) const;

  const Definition& definition_;
  EdgeconvConvAttributes attributes_;
  float x_scale_, y_scale_;
  int32_t x_zero_point_, y_zero_point_;
  std::vector<float> w_scale_;
  // Of the latest plan.
  EdgeconvQLinearKervolutionParams params_ = {};
  EdgeconvQLinearKervolutionCudaPlan plan_ = {};
  int64_t scale_stride_ = 0, zero_point_stride_ = 0;
  bool has_bias_ = false;
};

QLinearKervolutionPlugin::QLinearKervolutionPlugin(const Operator& op, const PluginState& state)
    : Plugin(op, state), definition_(kDefinitions[op.variant]), attributes_(read_conv_attributes(fields())) {
  for (const char* name : {"x_scale", "x_zero_point", "w_scale", "y_scale", "y_zero_point"}) {
    if (fields().has(name)) continue;
    throw Error{"attribute " + std::string(name) +
                " is missing: TensorRT keeps inputs on the device, so that a plugin must be told scales and "
                "zero-points by attributes, too; `edgeconv build` writes them"};
  }
  x_scale_ = read_scale("x_scale");
  y_scale_ = read_scale("y_scale");
  x_zero_point_ = read_zero_point("x_zero_point");
  y_zero_point_ = read_zero_point("y_zero_point");
  w_scale_ = fields().floats("w_scale");
}

float QLinearKervolutionPlugin::read_scale(const char* name) const {
  float scale = 0;
  fields().get(name, &scale);
  if (scale > 0) return scale;
  throw Error{std::string(name) + " is " + std::to_string(scale) + ": it must be positive"};
}

int32_t QLinearKervolutionPlugin::read_zero_point(const char* name) const {
  int64_t point = 0;
  fields().get(name, &point);
  if (point >= INT8_MIN && point <= INT8_MAX) return static_cast<int32_t>(point);
  throw Error{std::string(name) + " is " + std::to_string(point) + ": it must be an int8"};
}

void QLinearKervolutionPlugin::output_types(const DataType* inputs, int32_t count, DataType* outputs) const {
  for (int32_t i = 0; i < count; ++i) {
    if (i == kBias) continue;  // which may be absent: plan() knows
    const bool is_byte = wanted_type(i) == DataType::kINT8;
    check_type(input_name(i), inputs[i], wanted_type(i), is_byte ? ", the only 8-bit type of TensorRT's plugins" : "");
  }
  outputs[0] = DataType::kINT8;
}

void QLinearKervolutionPlugin::output_shapes(const nvinfer1::DimsExprs* inputs, int32_t, nvinfer1::DimsExprs* outputs,
                                             nvinfer1::IExprBuilder& builder) const {
  conv_output_shape(attributes_, inputs[kX], inputs[kW], &outputs[0], builder);
}

bool QLinearKervolutionPlugin::supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                        int32_t inputs) const {
  const nvinfer1::PluginTensorDesc& tensor = tensors[place].desc;
  if (place == kX) return tensor.type == DataType::kINT8 && is_activation_format(tensor.type, tensor.format);
  if (place == inputs) return tensor.type == DataType::kINT8 && tensor.format == tensors[kX].desc.format;
  return tensor.type == wanted_type(place) && tensor.format == TensorFormat::kLINEAR;
}

MemoryNeeds QLinearKervolutionPlugin::plan(const Tensors& tensors) {
  const nvinfer1::PluginTensorDesc& x = tensors.inputs[kX];
  params_ = {};
  params_.shape = conv_shape(attributes_, x.dims, tensors.inputs[kW].dims);
  const int64_t channels = params_.shape.out_channels;
  scale_stride_ = channel_stride("w_scale", tensors.inputs[kWScale], channels);
  zero_point_stride_ = channel_stride("w_zero_point", tensors.inputs[kWZeroPoint], channels);
  const size_t scales = scale_stride_ == 0 ? 1 : static_cast<size_t>(channels);
  if (w_scale_.size() != scales) {
    throw Error{"attribute w_scale has " + std::to_string(w_scale_.size()) + " values, input w_scale " +
                std::to_string(scales) + ": they must be the same"};
  }
  const nvinfer1::PluginTensorDesc* const bias = tensors.input(kBias);
  check_bias(bias, DataType::kFLOAT, channels);
  has_bias_ = bias != nullptr;
  params_.kernel = definition_.kernel;
  params_.x_type = params_.w_type = params_.y_type = EDGECONV_INT8;
  params_.x_scale = x_scale_;
  params_.x_zero_point = x_zero_point_;
  params_.sums = edgeconv_qlinear_kervolution_sums(x_scale_, w_scale_.data(), scale_stride_, channels);
  const EdgeconvCudaFormat format = cuda_format(x.format, params_.shape.in_channels, channels);
  EdgeconvStatus status = {};
  check(edgeconv_qlinear_kervolution_cuda_plan(&params_, &format, &device(), &plan_, &status), status);
  return {plan_.workspace_bytes, plan_.packed_bytes};
}

void QLinearKervolutionPlugin::run(const Call& call) {
  EdgeconvStatus status = {};
  if (call.pack) {
    EdgeconvQLinearFilters filters = {};
    filters.w = call.inputs[kW];
    filters.scale = static_cast<const float*>(call.inputs[kWScale]);
    filters.scale_stride = scale_stride_;
    filters.zero_point = call.inputs[kWZeroPoint];
    filters.zero_point_stride = zero_point_stride_;
    check(edgeconv_qlinear_kervolution_cuda_pack(&params_, &plan_, &filters, call.packed, call.stream, &status),
          status);
  }
  EdgeconvQLinearKervolutionCudaArguments arguments = {};
  arguments.x = call.inputs[kX];
  arguments.packed = call.packed;
  arguments.bias = has_bias_ ? static_cast<const float*>(call.inputs[kBias]) : nullptr;
  arguments.y_scale = y_scale_;
  arguments.y_zero_point = y_zero_point_;
  arguments.workspace = call.workspace;
  arguments.y = call.outputs[0];
  check(edgeconv_qlinear_kervolution_cuda_run(&params_, &plan_, &arguments, call.stream, &status), status);
}

}  // namespace

void append_qlinear_kervolution(std::vector<Operator>& operators) {
  for (const Definition& definition : kDefinitions) {
    Operator op = {};
    op.name = definition.name;
    op.inputs = {"X", "x_scale", "x_zero_point", "W", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B"};
    op.has_optional = true;
    op.outputs = 1;
    op.attributes = conv_attribute_specs();
    op.attributes.insert(op.attributes.end(), {kConstantFilters,
                                               {"x_scale", FieldKind::kFloats, 1},
                                               {"x_zero_point", FieldKind::kInts, 1},
                                               {"w_scale", FieldKind::kFloats, 0},
                                               {"y_scale", FieldKind::kFloats, 1},
                                               {"y_zero_point", FieldKind::kInts, 1}});
    op.variant = static_cast<int32_t>(&definition - kDefinitions);
    op.make = make_plugin<QLinearKervolutionPlugin>;
    operators.push_back(std::move(op));
  }
}

}  // namespace edgeconv::trt
