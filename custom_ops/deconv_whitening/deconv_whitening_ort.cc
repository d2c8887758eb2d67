// Glue between ONNX Runtime and the whitening kernel: input, attributes, memory and threads. No math.
#include "deconv_whitening/deconv_whitening_ort.h"

#include <string>

#include "common/ort_kernel.h"

namespace edgeconv {
namespace {

constexpr DeconvWhiteningDefinition kDefinition = {"DeconvWhitening"};

const DeconvWhiteningOp& self(const OrtCustomOp* op) { return *static_cast<const DeconvWhiteningOp*>(op); }

class DeconvWhiteningKernel {
 public:
  DeconvWhiteningKernel(const DeconvWhiteningOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  const DeconvWhiteningOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvDeconvWhiteningAttributes attributes_;
  int isa_ = 0;
  Owner<OrtAllocator> allocator_;
};

DeconvWhiteningKernel::DeconvWhiteningKernel(const DeconvWhiteningOp& op, const OrtKernelInfo* info)
    : op_(op), allocator_(kernel_allocator(op.api, info)) {
  prefix_ = error_prefix(op.api, info, op.definition->name);
  attributes_ = read_whitening_attributes(op.api, info);
  EdgeconvStatus status = {};
  check(edgeconv_select_isa(&isa_, &status), status);
}

void DeconvWhiteningKernel::compute(OrtKernelContext* context) {
  EdgeconvStatus status = {};
  EdgeconvDeconvWhiteningPlan plan;
  const Tensor x = read_input(api(), context, 0);
  const EdgeconvDeconvWhiteningParams params = whitening_params(op_, attributes_, x.dims);
  check(edgeconv_deconv_whitening_plan(&params, isa_, &plan, &status), status);

  const Buffer workspace(allocator_.get(), static_cast<size_t>(plan.workspace_bytes));
  EdgeconvDeconvWhiteningArguments arguments = {};
  arguments.x = x.data;
  arguments.workspace = workspace.get();
  make_whitening_outputs(api(), context, params, &arguments);
  for (int64_t phase = 0; phase < plan.phases; ++phase) {
    int64_t tasks = 0, tasks_per_call = 0;
    edgeconv_deconv_whitening_tasks(&params, &plan, phase, &tasks, &tasks_per_call);
    run_tasks(api(), context, allocator_.get(), tasks, tasks_per_call, static_cast<size_t>(plan.scratch_bytes),
              [&](int64_t first, int64_t last, void* scratch) {
                edgeconv_deconv_whitening_run(&params, isa_, &plan, &arguments, phase, first, last, scratch);
              });
  }
}

float* make_float_output(const OrtApi* api, OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank) {
  OrtValue* output = nullptr;
  void* data = nullptr;
  check(api, api->KernelContext_GetOutput(context, index, dims, rank, &output));
  check(api, api->GetTensorMutableData(output, &data));
  return static_cast<float*>(data);
}

// The callbacks of OrtCustomOp that are the operator's own.

void set_output_shape(const OrtApi* api, OrtShapeInferContext* context, size_t index, const int64_t* dims,
                      size_t rank) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->CreateTensorTypeAndShapeInfo(&info));
  const Owner<OrtTensorTypeAndShapeInfo> owner(info, {api->ReleaseTensorTypeAndShapeInfo});
  check(api, api->SetTensorElementType(info, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
  check(api, api->SetDimensions(info, dims, rank));
  check(api, api->ShapeInferContext_SetOutputTypeShape(context, index, info));
}

// The outputs' shapes follow from the attributes alone. What is wrong with those is reported by the kernel.
OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = self(op).api;
  return guarded(api, std::string(self(op).definition->name) + ": ", [&] {
    int64_t kernel_shape[2] = {0, 0}, block = 0, group = 1;
    infer_ints(api, context, "kernel_shape", ORT_OP_ATTR_INTS, kernel_shape, 2);
    infer_ints(api, context, "block", ORT_OP_ATTR_INT, &block, 1);
    infer_ints(api, context, "group", ORT_OP_ATTR_INT, &group, 1);
    constexpr int64_t kMost = int64_t{1} << 15;
    for (const int64_t size : {kernel_shape[0], kernel_shape[1], block, group}) {
      if (size < 1 || size > kMost) return;
    }
    const int64_t features = block * kernel_shape[0] * kernel_shape[1];
    const int64_t dims[3] = {group, features, features};
    set_output_shape(api, context, 0, dims, 2);
    set_output_shape(api, context, 1, dims, 3);
  });
}

}  // namespace

EdgeconvDeconvWhiteningAttributes read_whitening_attributes(const OrtApi* api, const OrtKernelInfo* info) {
  EdgeconvDeconvWhiteningAttributes attributes;
  edgeconv_deconv_whitening_attributes_init(&attributes);
  attributes.window = read_conv_attributes(api, info);
  attributes.block = read_int(api, info, "block", attributes.block);
  attributes.n_iter = read_int(api, info, "n_iter", attributes.n_iter);
  attributes.sampling_stride = read_int(api, info, "sampling_stride", attributes.sampling_stride);
  attributes.centered = read_int(api, info, "centered", attributes.centered);
  attributes.eps = read_float(api, info, "eps", attributes.eps);
  EdgeconvStatus status = {};
  check(edgeconv_deconv_whitening_check(&attributes, &status), status);
  return attributes;
}

EdgeconvDeconvWhiteningParams whitening_params(const DeconvWhiteningOp& op,
                                               const EdgeconvDeconvWhiteningAttributes& attributes,
                                               const std::vector<int64_t>& x_dims) {
  EdgeconvStatus status = {};
  EdgeconvDeconvWhiteningParams params = {};
  const int type = op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? EDGECONV_FLOAT16 : EDGECONV_FLOAT32;
  check(edgeconv_deconv_whitening_params(&attributes, x_dims.data(), x_dims.size(), type, &params, &status), status);
  return params;
}

void make_whitening_outputs(const OrtApi* api, OrtKernelContext* context, const EdgeconvDeconvWhiteningParams& params,
                            EdgeconvDeconvWhiteningArguments* arguments) {
  const int64_t dims[3] = {params.shape.group, params.features, params.features};
  arguments->mean = make_float_output(api, context, 0, dims, 2);
  arguments->deconv = make_float_output(api, context, 1, dims, 3);
}

void describe_deconv_whitening(const Runtime& runtime, ONNXTensorElementDataType type, DeconvWhiteningOp* op) {
  op->api = runtime.api;
  op->definition = &kDefinition;
  op->type = type;
  op->tf32 = runtime.tf32;
  op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
  op->GetInputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).type; };
  op->GetInputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op->GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{2}; };
  op->InferOutputShapeFn = infer_shape;
}

void append_deconv_whitening(const Runtime& runtime, CustomOps& ops) {
#ifdef EDGECONV_HAVE_CUDA
  append_deconv_whitening_cuda(runtime, ops);
  if (runtime.cuda_on_host) return;
#endif
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    auto op = std::make_shared<DeconvWhiteningOp>();
    begin_custom_op<DeconvWhiteningKernel>(runtime, op.get());
    describe_deconv_whitening(runtime, type, op.get());
    ops.push_back(std::move(op));
  }
}

}  // namespace edgeconv
