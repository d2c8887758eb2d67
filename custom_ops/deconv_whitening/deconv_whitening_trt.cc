// Glue between TensorRT and the whitening kernel: types, formats, shapes and memory. No math.
#include "common/trt_conv.h"
#include "common/trt_library.h"
#include "deconv_whitening/deconv_whitening_cuda.h"

namespace edgeconv::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

class DeconvWhiteningPlugin : public Plugin {
 public:
  DeconvWhiteningPlugin(const Operator& op, const PluginState& state);

 protected:
  void output_types(const DataType* inputs, int32_t count, DataType* outputs) const override;
  void output_shapes(const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs* outputs,
                     nvinfer1::IExprBuilder& builder) const override;
  bool supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs) const override;
  MemoryNeeds plan(const Tensors& tensors) override;
  void run(const Call& call) override;

 private:
  EdgeconvDeconvWhiteningAttributes attributes_;
  // Of the latest plan.
  EdgeconvDeconvWhiteningParams params_ = {};
  EdgeconvDeconvWhiteningCudaPlan plan_ = {};
};

DeconvWhiteningPlugin::DeconvWhiteningPlugin(const Operator& op, const PluginState& state) : Plugin(op, state) {
  edgeconv_deconv_whitening_attributes_init(&attributes_);
  attributes_.window = read_conv_attributes(fields());
  fields().get("block", &attributes_.block);
  fields().get("n_iter", &attributes_.n_iter);
  fields().get("sampling_stride", &attributes_.sampling_stride);
  fields().get("centered", &attributes_.centered);
  fields().get("eps", &attributes_.eps);
  EdgeconvStatus status = {};
  check(edgeconv_deconv_whitening_check(&attributes_, &status), status);
}

void DeconvWhiteningPlugin::output_types(const DataType* inputs, int32_t, DataType* outputs) const {
  float_type("X", inputs[0]);
  outputs[0] = outputs[1] = DataType::kFLOAT;
}

// mean (G, F) and deconv (G, F, F): their shapes follow from the attributes alone.
void DeconvWhiteningPlugin::output_shapes(const nvinfer1::DimsExprs* inputs, int32_t, nvinfer1::DimsExprs* outputs,
                                          nvinfer1::IExprBuilder& builder) const {
  if (inputs[0].nbDims != 4) {
    throw Error{"X has rank " + std::to_string(inputs[0].nbDims) + ": expected 4, (N, C, H, W)"};
  }
  const EdgeconvConvAttributes& window = attributes_.window;
  const Size group(window.group, builder);
  const Size features(attributes_.block * window.kernel_shape[0] * window.kernel_shape[1], builder);
  outputs[0].nbDims = 2;
  outputs[1].nbDims = 3;
  outputs[0].d[0] = outputs[1].d[0] = group.get();
  outputs[0].d[1] = outputs[1].d[1] = outputs[1].d[2] = features.get();
}

bool DeconvWhiteningPlugin::supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t) const {
  const nvinfer1::PluginTensorDesc& tensor = tensors[place].desc;
  if (place > 0) return tensor.type == DataType::kFLOAT && tensor.format == TensorFormat::kLINEAR;
  return (tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF) &&
         is_activation_format(tensor.type, tensor.format);
}

MemoryNeeds DeconvWhiteningPlugin::plan(const Tensors& tensors) {
  const nvinfer1::PluginTensorDesc& x = tensors.inputs[0];
  int64_t dims[nvinfer1::Dims::MAX_DIMS];
  std::copy(x.dims.d, x.dims.d + x.dims.nbDims, dims);
  EdgeconvStatus status = {};
  check(edgeconv_deconv_whitening_params(&attributes_, dims, static_cast<size_t>(x.dims.nbDims),
                                         float_type("X", x.type), &params_, &status),
        status);
  const EdgeconvCudaFormat format = cuda_format(x.format, params_.shape.in_channels, 0);
  check(edgeconv_deconv_whitening_cuda_plan(&params_, &format, &device(), &plan_, &status), status);
  return {plan_.workspace_bytes, 0};
}

void DeconvWhiteningPlugin::run(const Call& call) {
  EdgeconvStatus status = {};
  EdgeconvDeconvWhiteningArguments arguments = {};
  arguments.x = call.inputs[0];
  arguments.workspace = call.workspace;
  arguments.mean = static_cast<float*>(call.outputs[0]);
  arguments.deconv = static_cast<float*>(call.outputs[1]);
  check(edgeconv_deconv_whitening_cuda_run(&params_, &plan_, &arguments, call.stream, &status), status);
}

}  // namespace

void append_deconv_whitening(std::vector<Operator>& operators) {
  Operator op = {};
  op.name = "DeconvWhitening";
  op.inputs = {"X"};
  op.outputs = 2;
  op.attributes = conv_attribute_specs();
  op.attributes.insert(op.attributes.end(), {{"block", FieldKind::kInts, 1},
                                             {"n_iter", FieldKind::kInts, 1},
                                             {"sampling_stride", FieldKind::kInts, 1},
                                             {"centered", FieldKind::kInts, 1},
                                             {"eps", FieldKind::kFloats, 1}});
  op.make = make_plugin<DeconvWhiteningPlugin>;
  operators.push_back(std::move(op));
}

}  // namespace edgeconv::trt
