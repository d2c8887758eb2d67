// Glue between ONNX Runtime and the 8-bit kervolution kernels: inputs, attributes, memory and threads. No math.
#include "qlinear_kervolution/qlinear_kervolution_ort.h"

#include <string>

#include "common/ort_kernel.h"

namespace edgeconv {
namespace {

const QLinearKervolutionOp& self(const OrtCustomOp* op) { return *static_cast<const QLinearKervolutionOp*>(op); }

int32_t element_type(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? EDGECONV_INT8 : EDGECONV_UINT8;
}

bool is_scalar(const Tensor& tensor) { return tensor.dims.empty() || (tensor.dims.size() == 1 && tensor.dims[0] == 1); }

const void* scalar(const Tensor& tensor, const char* name) {
  if (!is_scalar(tensor)) {
    throw Error{ORT_INVALID_ARGUMENT, std::string(name) + " has shape " + to_text(tensor.dims) + ": expected a scalar"};
  }
  return tensor.data;
}

// 0 for one value for all filters, 1 for one each.
int64_t filter_stride(const Tensor& tensor, const char* name, int64_t filters) {
  if (is_scalar(tensor)) return 0;
  if (tensor.dims.size() == 1 && tensor.dims[0] == filters) return 1;
  throw Error{ORT_INVALID_ARGUMENT, std::string(name) + " has shape " + to_text(tensor.dims) +
                                        ": expected a scalar or (" + std::to_string(filters) + ")"};
}

class QLinearKervolutionKernel {
 public:
  QLinearKervolutionKernel(const QLinearKervolutionOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  void set_filters(const QLinearFilterInputs& inputs, EdgeconvQLinearKervolutionParams* params, Buffer* packed) const;

  const QLinearKervolutionOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvConvAttributes attributes_;
  int isa_ = 0;
  Owner<OrtAllocator> allocator_;
  EdgeconvQLinearKervolutionParams params_ = {};  // filter part, where W and what it is packed with are initialisers
  Buffer packed_;                                 // empty where they are not
};

QLinearKervolutionKernel::QLinearKervolutionKernel(const QLinearKervolutionOp& op, const OrtKernelInfo* info)
    : op_(op), allocator_(kernel_allocator(op.api, info)) {
  const OrtApi* api = op.api;
  prefix_ = error_prefix(api, info, op.definition->name);
  attributes_ = read_conv_attributes(api, info);
  EdgeconvStatus status = {};
  check(edgeconv_select_isa(&isa_, &status), status);
  const auto constants = QLinearFilterInputs::from([&](size_t index) { return read_constant(api, info, index); });
  if (constants.complete()) set_filters(constants, &params_, &packed_);
}

void QLinearKervolutionKernel::set_filters(const QLinearFilterInputs& inputs, EdgeconvQLinearKervolutionParams* params,
                                           Buffer* packed) const {
  EdgeconvStatus status = {};
  EdgeconvQLinearFilters filters;
  read_filters(op_, attributes_, inputs, params, &filters);
  EdgeconvQLinearKervolutionPlan plan;
  check(edgeconv_qlinear_kervolution_plan(params, isa_, &plan, &status), status);
  *packed = Buffer(allocator_.get(), edgeconv_qlinear_kervolution_packed_bytes(params, &plan));
  edgeconv_qlinear_kervolution_pack(params, isa_, &plan, &filters, packed->get());
}

void QLinearKervolutionKernel::compute(OrtKernelContext* context) {
  const auto read = [&](size_t index) { return read_input(api(), context, index); };
  EdgeconvStatus status = {};
  EdgeconvQLinearKervolutionParams params = params_;
  Buffer packed_now;
  if (packed_.get() == nullptr) set_filters(QLinearFilterInputs::from(read), &params, &packed_now);
  const Tensor x = read(kX);
  check(edgeconv_conv_input_shape(&attributes_, x.dims.data(), x.dims.size(), &params.shape, &status), status);
  EdgeconvQLinearKervolutionPlan plan;
  check(edgeconv_qlinear_kervolution_plan(&params, isa_, &plan, &status), status);

  const EdgeconvConvShape& shape = params.shape;
  const Tensor y_scale = read(kYScale), y_zero_point = read(kYZeroPoint);
  const Tensor bias = read_bias(api(), context, kBias, shape.out_channels);
  EdgeconvQLinearKervolutionArguments arguments = {};
  arguments.x = x.data;
  arguments.packed = packed_.get() != nullptr ? packed_.get() : packed_now.get();
  arguments.bias = static_cast<const float*>(bias.data);
  arguments.y_scale = float_scalar(y_scale, "y_scale");
  arguments.y_zero_point = byte_scalar(y_zero_point, "y_zero_point");

  arguments.y = make_output(api(), context, shape);
  const EdgeconvTiling& tiling = plan.tiling;
  run_tasks(api(), context, allocator_.get(), tiling.tasks, tiling.tasks_per_call,
            edgeconv_qlinear_kervolution_scratch_bytes(&plan), [&](int64_t first, int64_t last, void* scratch) {
              edgeconv_qlinear_kervolution_run(&params, isa_, &plan, &arguments, first, last, scratch);
            });
}

// The callbacks of OrtCustomOp that are the operator's own.

OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded(self(op).api, std::string(self(op).definition->name) + ": ",
                 [&] { infer_conv_output(self(op).api, context, kW, kYZeroPoint); });
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  switch (index) {
    case kX:
    case kXZeroPoint: return self(op).x_type;
    case kW:
    case kWZeroPoint: return self(op).w_type;
    case kYZeroPoint: return self(op).y_type;
    default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

}  // namespace

float float_scalar(const Tensor& tensor, const char* name) { return *static_cast<const float*>(scalar(tensor, name)); }

int32_t byte_scalar(const Tensor& tensor, const char* name) {
  const void* data = scalar(tensor, name);
  return tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? *static_cast<const int8_t*>(data)
                                                           : *static_cast<const uint8_t*>(data);
}

void read_filters(const QLinearKervolutionOp& op, const EdgeconvConvAttributes& attributes,
                  const QLinearFilterInputs& inputs, EdgeconvQLinearKervolutionParams* params,
                  EdgeconvQLinearFilters* filters) {
  EdgeconvStatus status = {};
  const std::vector<int64_t>& dims = inputs.w.dims;
  check(edgeconv_conv_filter_shape(&attributes, dims.data(), dims.size(), &params->shape, &status), status);
  const int64_t count = params->shape.out_channels;
  *filters = {};
  filters->w = inputs.w.data;
  filters->scale = static_cast<const float*>(inputs.w_scale.data);
  filters->scale_stride = filter_stride(inputs.w_scale, "w_scale", count);
  filters->zero_point = inputs.w_zero_point.data;
  filters->zero_point_stride = filter_stride(inputs.w_zero_point, "w_zero_point", count);
  params->kernel = op.definition->kernel;
  params->x_type = element_type(op.x_type);
  params->w_type = element_type(op.w_type);
  params->y_type = element_type(op.y_type);
  params->x_scale = float_scalar(inputs.x_scale, "x_scale");
  params->x_zero_point = byte_scalar(inputs.x_zero_point, "x_zero_point");
  params->sums = edgeconv_qlinear_kervolution_sums(params->x_scale, filters->scale, filters->scale_stride, count);
}

void describe_qlinear_kervolution(const Runtime& runtime, const QLinearKervolutionDefinition& definition,
                                  ONNXTensorElementDataType x_type, ONNXTensorElementDataType w_type,
                                  ONNXTensorElementDataType y_type, QLinearKervolutionOp* op) {
  op->api = runtime.api;
  op->definition = &definition;
  op->x_type = x_type;
  op->w_type = w_type;
  op->y_type = y_type;
  op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
  op->GetInputType = input_type;
  op->GetInputTypeCount = [](const OrtCustomOp*) { return size_t{kInputCount}; };
  op->GetOutputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).y_type; };
  op->GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == kBias ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  // ONNX Runtime up to 1.23 crashes before it calls this function where an optional input has the empty name. There the
  // output's type still follows from those of the inputs; only its static shape stays unknown.
  if (runtime.release >= 24) op->InferOutputShapeFn = infer_shape;
}

void append_qlinear_kervolution(const Runtime& runtime, CustomOps& ops) {
#ifdef EDGECONV_HAVE_CUDA
  append_qlinear_kervolution_cuda(runtime, ops);
  if (runtime.cuda_on_host) return;
#endif
  for_each_qlinear_kervolution(
      [&](const QLinearKervolutionDefinition& definition, auto x_type, auto w_type, auto y_type) {
        auto op = std::make_shared<QLinearKervolutionOp>();
        begin_custom_op<QLinearKervolutionKernel>(runtime, op.get());
        describe_qlinear_kervolution(runtime, definition, x_type, w_type, y_type, op.get());
        ops.push_back(std::move(op));
      });
}

}  // namespace edgeconv
