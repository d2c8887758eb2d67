// Glue between ONNX Runtime and the kervolution kernels: inputs, attributes, memory and threads. No math.
#include "kervolution/kervolution_ort.h"

#include <string>

#include "common/ort_kernel.h"

namespace edgeconv {
namespace {

const KervolutionOp& self(const OrtCustomOp* op) { return *static_cast<const KervolutionOp*>(op); }

// The attribute `precision`: kernels of sums of differences have no products to choose one for.
EdgeconvPrecision read_precision(const OrtApi* api, const OrtKernelInfo* info, int kernel) {
  const bool is_product = kernel != EDGECONV_MANHATTAN && kernel != EDGECONV_CHEBYSHEV;
  const std::string precision = read_string(api, info, "precision", "float32");
  if (precision == "float32") return EDGECONV_FLOAT32_PRECISION;
  if (precision == "bf16x3" && is_product) return EDGECONV_BF16X3;
  throw Error{ORT_INVALID_ARGUMENT, "precision is '" + precision + "': it must be float32" +
                                        (is_product ? " or bf16x3" : ", the only one of this operator")};
}

class KervolutionKernel {
 public:
  KervolutionKernel(const KervolutionOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  void set_filters(const Tensor& w, EdgeconvKervolutionParams* params, EdgeconvKervolutionPlan* plan,
                   Buffer* packed) const;

  const KervolutionOp& op_;
  std::string prefix_;  // of error messages: operator and node
  KervolutionNode node_;
  int isa_ = 0;
  Owner<OrtAllocator> allocator_;
  EdgeconvKervolutionParams params_ = {};  // filter part, where W is an initialiser
  Buffer packed_;                          // empty where W is not
};

KervolutionKernel::KervolutionKernel(const KervolutionOp& op, const OrtKernelInfo* info)
    : op_(op),
      prefix_(error_prefix(op.api, info, op.definition->name)),
      node_(op, info),
      allocator_(kernel_allocator(op.api, info)) {
  EdgeconvStatus status = {};
  check(edgeconv_select_isa(&isa_, &status), status);
  const Tensor w = read_constant(op.api, info, 1);
  if (w.data != nullptr) {
    EdgeconvKervolutionPlan plan;
    set_filters(w, &params_, &plan, &packed_);
  }
}

void KervolutionKernel::set_filters(const Tensor& w, EdgeconvKervolutionParams* params, EdgeconvKervolutionPlan* plan,
                                    Buffer* packed) const {
  EdgeconvStatus status = {};
  *params = node_.filter_params(w.dims);
  check(edgeconv_kervolution_plan(params, isa_, plan, &status), status);
  *packed = Buffer(allocator_.get(), edgeconv_kervolution_packed_bytes(params, plan));
  edgeconv_kervolution_pack(params, plan, w.data, static_cast<float*>(packed->get()));
}

void KervolutionKernel::compute(OrtKernelContext* context) {
  EdgeconvStatus status = {};
  EdgeconvKervolutionParams params = params_;
  EdgeconvKervolutionPlan plan;
  Buffer packed_now;
  const Tensor w = read_input(api(), context, 1);
  if (packed_.get() == nullptr) set_filters(w, &params, &plan, &packed_now);
  const Tensor x = read_input(api(), context, 0);
  node_.set_input(x.dims, &params);
  check(edgeconv_kervolution_plan(&params, isa_, &plan, &status), status);

  const EdgeconvConvShape& shape = params.shape;
  EdgeconvKervolutionArguments arguments = {};
  arguments.x = x.data;
  arguments.w = w.data;
  arguments.packed = static_cast<const float*>(packed_.get() != nullptr ? packed_.get() : packed_now.get());
  arguments.scale = node_.scale(context, shape.out_channels);
  arguments.balance = node_.balance(context, shape.out_channels);
  arguments.bias = read_bias(api(), context, static_cast<size_t>(op_.definition->bias), shape.out_channels).data;

  arguments.y = make_output(api(), context, shape);
  run_tasks(api(), context, allocator_.get(), plan.tiling.tasks, plan.tiling.tasks_per_call,
            edgeconv_kervolution_scratch_bytes(&plan), [&](int64_t first, int64_t last, void* scratch) {
              edgeconv_kervolution_run(&params, isa_, &plan, &arguments, first, last, scratch);
            });
}

// The callbacks of OrtCustomOp that are the operator's own.

OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded(self(op).api, std::string(self(op).definition->name) + ": ",
                 [&] { infer_conv_output(self(op).api, context); });
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  const KervolutionDefinition& definition = *self(op).definition;
  const int input = static_cast<int>(index);
  const bool parameter = input == definition.scale || input == definition.balance;
  return parameter ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : self(op).type;
}

}  // namespace

KervolutionNode::KervolutionNode(const KervolutionOp& op, const OrtKernelInfo* info) : op_(op) {
  attributes_ = read_conv_attributes(op.api, info);
  if (op.definition->kernel == EDGECONV_POLYNOMIAL) {
    degree_ = read_int(op.api, info, "degree", 3);
    if (degree_ < 1) {
      throw Error{ORT_INVALID_ARGUMENT, "degree is " + std::to_string(degree_) + ": it must be at least 1"};
    }
  }
  precision_ = read_precision(op.api, info, op.definition->kernel);
}

EdgeconvKervolutionParams KervolutionNode::filter_params(const std::vector<int64_t>& w_dims) const {
  EdgeconvStatus status = {};
  EdgeconvKervolutionParams params = {};
  check(edgeconv_conv_filter_shape(&attributes_, w_dims.data(), w_dims.size(), &params.shape, &status), status);
  params.kernel = op_.definition->kernel;
  params.element_type = op_.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? EDGECONV_FLOAT16 : EDGECONV_FLOAT32;
  params.degree = degree_;
  params.precision = precision_;
  return params;
}

void KervolutionNode::set_input(const std::vector<int64_t>& x_dims, EdgeconvKervolutionParams* params) const {
  EdgeconvStatus status = {};
  check(edgeconv_conv_input_shape(&attributes_, x_dims.data(), x_dims.size(), &params->shape, &status), status);
}

EdgeconvChannelValues KervolutionNode::scale(OrtKernelContext* context, int64_t channels) const {
  const char* name = op_.definition->kernel == EDGECONV_GAUSSIAN ? "gamma" : "scale";
  return channel_values(context, op_.definition->scale, name, channels);
}

EdgeconvChannelValues KervolutionNode::balance(OrtKernelContext* context, int64_t channels) const {
  return channel_values(context, op_.definition->balance, "balance", channels);
}

EdgeconvChannelValues KervolutionNode::channel_values(OrtKernelContext* context, int index, const char* name,
                                                      int64_t channels) const {
  if (index == KervolutionDefinition::kNoInput) return {nullptr, 0};
  const Tensor tensor = read_input(op_.api, context, static_cast<size_t>(index));
  const bool scalar = tensor.dims.empty() || (tensor.dims.size() == 1 && tensor.dims[0] == 1);
  if (!scalar && !(tensor.dims.size() == 1 && tensor.dims[0] == channels)) {
    throw Error{ORT_INVALID_ARGUMENT, std::string(name) + " has shape " + to_text(tensor.dims) +
                                          ": expected a scalar, (1) or (" + std::to_string(channels) + ")"};
  }
  return {static_cast<const float*>(tensor.data), scalar ? 0 : 1};
}

void describe_kervolution(const Runtime& runtime, const KervolutionDefinition& definition,
                          ONNXTensorElementDataType type, KervolutionOp* op) {
  op->api = runtime.api;
  op->definition = &definition;
  op->type = type;
  op->tf32 = runtime.tf32;
  op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
  op->GetInputType = input_type;
  op->GetInputTypeCount = [](const OrtCustomOp* self_op) { return size_t(self(self_op).definition->bias) + 1; };
  op->GetOutputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).type; };
  op->GetInputCharacteristic = [](const OrtCustomOp* self_op, size_t index) {
    return int(index) == self(self_op).definition->bias ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  // ONNX Runtime up to 1.23 crashes before it calls this function where an optional input has the empty name. There the
  // output's type still follows from X's; only its static shape stays unknown.
  if (runtime.release >= 24) op->InferOutputShapeFn = infer_shape;
}

void append_kervolution(const Runtime& runtime, CustomOps& ops) {
#ifdef EDGECONV_HAVE_CUDA
  append_kervolution_cuda(runtime, ops);
  if (runtime.cuda_on_host) return;
#endif
  for (const KervolutionDefinition& definition : kKervolutions) {
    for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
      auto op = std::make_shared<KervolutionOp>();
      begin_custom_op<KervolutionKernel>(runtime, op.get());
      describe_kervolution(runtime, definition, type, op.get());
      ops.push_back(std::move(op));
    }
  }
}

}  // namespace edgeconv
