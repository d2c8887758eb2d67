// Glue between TensorRT and the kervolution kernels: types, formats, shapes and memory. No math.
//
// Products of float32 values are computed in float32: a builder's permission to use TF32 does not reach a plugin.
#include "common/trt_conv.h"
#include "common/trt_library.h"
#include "kervolution/kervolution_cuda.h"

namespace edgeconv::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

constexpr int kNoInput = -1;

struct Definition {
  const char* name;
  EdgeconvKernel kernel;
  int scale, balance, bias;  // input indices; X is 0, W is 1
};

constexpr Definition kDefinitions[] = {
    {"PolynomialKervolution", EDGECONV_POLYNOMIAL, kNoInput, 2, 3},
    {"GaussianKervolution", EDGECONV_GAUSSIAN, 2, kNoInput, 3},
    {"SigmoidKervolution", EDGECONV_SIGMOID, 2, 3, 4},
    {"EuclideanKervolution", EDGECONV_EUCLIDEAN, kNoInput, kNoInput, 2},
    {"ManhattanKervolution", EDGECONV_MANHATTAN, kNoInput, kNoInput, 2},
    {"ChebyshevKervolution", EDGECONV_CHEBYSHEV, kNoInput, kNoInput, 2},
};

class KervolutionPlugin : public Plugin {
 public:
  KervolutionPlugin(const Operator& op, const PluginState& state);

 protected:
  void output_types(const DataType* inputs, int32_t count, DataType* outputs) const override;
  void output_shapes(const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs* outputs,
                     nvinfer1::IExprBuilder& builder) const override;
  bool supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs) const override;
  MemoryNeeds plan(const Tensors& tensors) override;
  void run(const Call& call) override;
  int32_t filters_input() const override { return 1; }

 private:
  bool is_parameter(int32_t input) const { return input == definition_.scale || input == definition_.balance; }
  EdgeconvChannelValues channel_values(const Call& call, int input, int64_t stride) const;

  const Definition& definition_;
  EdgeconvConvAttributes attributes_;
  int64_t degree_ = 1;
  // Of the latest plan.
  EdgeconvKervolutionParams params_ = {};
  EdgeconvKervolutionCudaPlan plan_ = {};
  int64_t scale_stride_ = 0, balance_stride_ = 0;
  bool has_bias_ = false;
};

KervolutionPlugin::KervolutionPlugin(const Operator& op, const PluginState& state)
    : Plugin(op, state), definition_(kDefinitions[op.variant]), attributes_(read_conv_attributes(fields())) {
  if (definition_.kernel != EDGECONV_POLYNOMIAL) return;
  degree_ = 3;
  fields().get("degree", &degree_);
  if (degree_ < 1) throw Error{"degree is " + std::to_string(degree_) + ": it must be at least 1"};
}

void KervolutionPlugin::output_types(const DataType* inputs, int32_t count, DataType* outputs) const {
  float_type("X", inputs[0]);
  for (int32_t i = 1; i < count; ++i) {
    if (is_parameter(i)) {
      check_type(input_name(i), inputs[i], DataType::kFLOAT, ", the only type of a kernel's parameters");
    } else if (i != definition_.bias) {  // which may be absent: plan() knows
      check_type(input_name(i), inputs[i], inputs[0], ", as X is");
    }
  }
  outputs[0] = inputs[0];
}

void KervolutionPlugin::output_shapes(const nvinfer1::DimsExprs* inputs, int32_t, nvinfer1::DimsExprs* outputs,
                                      nvinfer1::IExprBuilder& builder) const {
  conv_output_shape(attributes_, inputs[0], inputs[1], &outputs[0], builder);
}

bool KervolutionPlugin::supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t inputs) const {
  const nvinfer1::PluginTensorDesc& x = tensors[0].desc;
  const nvinfer1::PluginTensorDesc& tensor = tensors[place].desc;
  if (place == 0) {
    return (x.type == DataType::kFLOAT || x.type == DataType::kHALF) && is_activation_format(x.type, x.format);
  }
  if (place == inputs) return tensor.type == x.type && tensor.format == x.format;
  return tensor.type == (is_parameter(place) ? DataType::kFLOAT : x.type) && tensor.format == TensorFormat::kLINEAR;
}

MemoryNeeds KervolutionPlugin::plan(const Tensors& tensors) {
  const nvinfer1::PluginTensorDesc& x = tensors.inputs[0];
  params_ = {};
  params_.shape = conv_shape(attributes_, x.dims, tensors.inputs[1].dims);
  params_.kernel = definition_.kernel;
  params_.element_type = float_type("X", x.type);
  params_.degree = degree_;
  params_.precision = EDGECONV_FLOAT32_PRECISION;
  const int64_t channels = params_.shape.out_channels;
  const auto stride = [&](int input) {
    return input == kNoInput ? 0 : channel_stride(input_name(input), tensors.inputs[size_t(input)], channels);
  };
  scale_stride_ = stride(definition_.scale);
  balance_stride_ = stride(definition_.balance);
  const nvinfer1::PluginTensorDesc* const bias = tensors.input(size_t(definition_.bias));
  check_bias(bias, x.type, channels);
  has_bias_ = bias != nullptr;
  const EdgeconvCudaFormat format = cuda_format(x.format, params_.shape.in_channels, channels);
  EdgeconvStatus status = {};
  check(edgeconv_kervolution_cuda_plan(&params_, &format, &device(), &plan_, &status), status);
  return {plan_.workspace_bytes, plan_.packed_bytes};
}

EdgeconvChannelValues KervolutionPlugin::channel_values(const Call& call, int input, int64_t stride) const {
  if (input == kNoInput) return {nullptr, 0};
  return {static_cast<const float*>(call.inputs[input]), stride};
}

void KervolutionPlugin::run(const Call& call) {
  EdgeconvStatus status = {};
  EdgeconvKervolutionCudaArguments arguments = {};
  arguments.x = call.inputs[0];
  arguments.w = call.inputs[1];
  arguments.packed = call.packed;
  arguments.scale = channel_values(call, definition_.scale, scale_stride_);
  arguments.balance = channel_values(call, definition_.balance, balance_stride_);
  arguments.bias = has_bias_ ? call.inputs[definition_.bias] : nullptr;
  arguments.workspace = call.workspace;
  arguments.y = call.outputs[0];
  if (call.pack) {
    check(edgeconv_kervolution_cuda_pack(&params_, &plan_, arguments.w, call.packed, call.stream, &status), status);
  }
  check(edgeconv_kervolution_cuda_run(&params_, &plan_, &arguments, call.stream, &status), status);
}

}  // namespace

void append_kervolution(std::vector<Operator>& operators) {
  for (const Definition& definition : kDefinitions) {
    Operator op = {};
    op.name = definition.name;
    op.inputs = {"X", "W"};
    if (definition.scale != kNoInput) op.inputs.push_back(definition.kernel == EDGECONV_GAUSSIAN ? "gamma" : "scale");
    if (definition.balance != kNoInput) op.inputs.push_back("balance");
    op.inputs.push_back("B");
    op.has_optional = true;
    op.outputs = 1;
    op.attributes = conv_attribute_specs();
    op.attributes.push_back(kConstantFilters);
    if (definition.kernel == EDGECONV_POLYNOMIAL) op.attributes.push_back({"degree", FieldKind::kInts, 1});
    op.variant = static_cast<int32_t>(&definition - kDefinitions);
    op.make = make_plugin<KervolutionPlugin>;
    operators.push_back(std::move(op));
  }
}

}  // namespace edgeconv::trt
