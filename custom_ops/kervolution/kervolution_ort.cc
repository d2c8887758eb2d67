// Glue between ONNX Runtime and the kervolution kernels: inputs, attributes, memory and threads. No math.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "common/ort_library.h"
#include "kervolution/kervolution.h"

namespace edgeconv {
namespace {

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

struct KervolutionOp : OrtCustomOp {
  const OrtApi* api;
  const Definition* definition;
  ONNXTensorElementDataType type;
};

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
  EdgeconvChannelValues channel_values(OrtKernelContext* context, int index, const char* name, int64_t channels,
                                       Tensor* tensor) const;
  Tensor input(OrtKernelContext* context, int index) const;
  void run(OrtKernelContext* context, const EdgeconvKervolutionParams& params, const EdgeconvKervolutionPlan& plan,
           const EdgeconvKervolutionArguments& arguments) const;

  const KervolutionOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvConvAttributes attributes_;
  int isa_ = 0;
  int64_t degree_ = 1;
  EdgeconvPrecision precision_ = EDGECONV_FLOAT32_PRECISION;
  Owner<OrtAllocator> allocator_;
  EdgeconvKervolutionParams params_ = {};  // filter part, where W is an initialiser
  Buffer packed_;                          // empty where W is not
};

KervolutionKernel::KervolutionKernel(const KervolutionOp& op, const OrtKernelInfo* info)
    : op_(op), allocator_(nullptr, {op.api->ReleaseAllocator}) {
  const OrtApi* api = op.api;
  prefix_ = std::string(op.definition->name) + " '" + node_name(api, info) + "': ";
  attributes_ = read_conv_attributes(api, info);
  if (op.definition->kernel == EDGECONV_POLYNOMIAL) {
    degree_ = read_int(api, info, "degree", 3);
    if (degree_ < 1) {
      throw Error{ORT_INVALID_ARGUMENT, "degree is " + std::to_string(degree_) + ": it must be at least 1"};
    }
  }
  precision_ = read_precision(api, info, op.definition->kernel);
  EdgeconvStatus status = {};
  check(edgeconv_select_isa(&isa_, &status), status);
  OrtAllocator* allocator = nullptr;
  check(api, api->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  allocator_.reset(allocator);
  int constant = 0;
  const OrtValue* w = nullptr;
  check(api, api->KernelInfoGetConstantInput_tensor(info, 1, &constant, &w));
  if (constant != 0 && w != nullptr) {
    EdgeconvKervolutionPlan plan;
    set_filters(read_tensor(api, w), &params_, &plan, &packed_);
  }
}

void KervolutionKernel::set_filters(const Tensor& w, EdgeconvKervolutionParams* params, EdgeconvKervolutionPlan* plan,
                                    Buffer* packed) const {
  EdgeconvStatus status = {};
  check(edgeconv_conv_filter_shape(&attributes_, w.dims.data(), w.dims.size(), &params->shape, &status), status);
  params->kernel = op_.definition->kernel;
  params->element_type = op_.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? EDGECONV_FLOAT16 : EDGECONV_FLOAT32;
  params->degree = degree_;
  params->precision = precision_;
  check(edgeconv_kervolution_plan(params, isa_, plan, &status), status);
  *packed = Buffer(allocator_.get(), edgeconv_kervolution_packed_bytes(params, plan));
  edgeconv_kervolution_pack(params, plan, w.data, static_cast<float*>(packed->get()));
}

Tensor KervolutionKernel::input(OrtKernelContext* context, int index) const {
  size_t count = 0;
  check(api(), api()->KernelContext_GetInputCount(context, &count));
  const OrtValue* value = nullptr;
  if (index != kNoInput && static_cast<size_t>(index) < count) {
    check(api(), api()->KernelContext_GetInput(context, index, &value));
  }
  return read_tensor(api(), value);
}

// A parameter or bias: one value, or one an output channel.
EdgeconvChannelValues KervolutionKernel::channel_values(OrtKernelContext* context, int index, const char* name,
                                                        int64_t channels, Tensor* tensor) const {
  if (index == kNoInput) return {nullptr, 0};
  *tensor = input(context, index);
  const bool scalar = tensor->dims.empty() || (tensor->dims.size() == 1 && tensor->dims[0] == 1);
  if (!scalar && !(tensor->dims.size() == 1 && tensor->dims[0] == channels)) {
    throw Error{ORT_INVALID_ARGUMENT, std::string(name) + " has shape " + to_text(tensor->dims) +
                                          ": expected a scalar, (1) or (" + std::to_string(channels) + ")"};
  }
  return {static_cast<const float*>(tensor->data), scalar ? 0 : 1};
}

void KervolutionKernel::compute(OrtKernelContext* context) {
  const Definition& definition = *op_.definition;
  EdgeconvStatus status = {};
  EdgeconvKervolutionParams params = params_;
  EdgeconvKervolutionPlan plan;
  Buffer packed_now;
  const Tensor w = input(context, 1);
  if (packed_.get() == nullptr) set_filters(w, &params, &plan, &packed_now);
  const Tensor x = input(context, 0);
  check(edgeconv_conv_input_shape(&attributes_, x.dims.data(), x.dims.size(), &params.shape, &status), status);
  check(edgeconv_kervolution_plan(&params, isa_, &plan, &status), status);

  const EdgeconvConvShape& shape = params.shape;
  Tensor scale, balance;
  EdgeconvKervolutionArguments arguments = {};
  arguments.x = x.data;
  arguments.w = w.data;
  arguments.packed = static_cast<const float*>(packed_.get() != nullptr ? packed_.get() : packed_now.get());
  const char* scale_name = definition.kernel == EDGECONV_GAUSSIAN ? "gamma" : "scale";
  arguments.scale = channel_values(context, definition.scale, scale_name, shape.out_channels, &scale);
  arguments.balance = channel_values(context, definition.balance, "balance", shape.out_channels, &balance);
  const Tensor bias = input(context, definition.bias);
  if (bias.data != nullptr && (bias.dims.size() != 1 || bias.dims[0] != shape.out_channels)) {
    throw Error{ORT_INVALID_ARGUMENT,
                "B has shape " + to_text(bias.dims) + ": expected (" + std::to_string(shape.out_channels) + ")"};
  }
  arguments.bias = bias.data;

  const int64_t dims[4] = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  OrtValue* output = nullptr;
  check(api(), api()->KernelContext_GetOutput(context, 0, dims, 4, &output));
  check(api(), api()->GetTensorMutableData(output, &arguments.y));
  if (plan.tiling.tasks > 0) run(context, params, plan, arguments);
}

// One call of the thread pool's function: consecutive tasks that share one thread's scratch.
struct Call {
  const EdgeconvKervolutionParams& params;
  const EdgeconvKervolutionPlan& plan;
  const EdgeconvKervolutionArguments& arguments;
  OrtAllocator* allocator;
  int isa;
  std::atomic<bool> failed{false};
};

void run_call(void* data, size_t index) noexcept {
  Call& call = *static_cast<Call*>(data);
  try {
    const EdgeconvTiling& tiling = call.plan.tiling;
    const Buffer scratch(call.allocator, edgeconv_kervolution_scratch_bytes(&call.plan));
    const int64_t first = static_cast<int64_t>(index) * tiling.tasks_per_call;
    const int64_t last = std::min(tiling.tasks, first + tiling.tasks_per_call);
    edgeconv_kervolution_run(&call.params, call.isa, &call.plan, &call.arguments, first, last, scratch.get());
  } catch (...) {
    call.failed = true;
  }
}

void KervolutionKernel::run(OrtKernelContext* context, const EdgeconvKervolutionParams& params,
                            const EdgeconvKervolutionPlan& plan, const EdgeconvKervolutionArguments& arguments) const {
  const EdgeconvTiling& tiling = plan.tiling;
  Call call{params, plan, arguments, allocator_.get(), isa_};
  const size_t calls = static_cast<size_t>((tiling.tasks + tiling.tasks_per_call - 1) / tiling.tasks_per_call);
  if (calls == 1) {
    run_call(&call, 0);
  } else {
    check(api(), api()->KernelContext_ParallelFor(context, run_call, calls, 0, &call));
  }
  if (call.failed) throw std::bad_alloc();
}

// The callbacks of OrtCustomOp.

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                                      void** kernel) {
  *kernel = nullptr;
  std::string prefix = std::string(self(op).definition->name) + ": ";
  return guarded(api, "", [&] {
    try {
      prefix = std::string(self(op).definition->name) + " '" + node_name(api, info) + "': ";
      *kernel = new KervolutionKernel(self(op), info);
    } catch (const Error& error) {
      throw Error{error.code, prefix + error.message};
    }
  });
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  auto* kervolution = static_cast<KervolutionKernel*>(kernel);
  return guarded(kervolution->api(), kervolution->prefix(), [&] { kervolution->compute(context); });
}

OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded(self(op).api, std::string(self(op).definition->name) + ": ",
                 [&] { infer_conv_output(self(op).api, context); });
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  const Definition& definition = *self(op).definition;
  const int input = static_cast<int>(index);
  const bool parameter = input == definition.scale || input == definition.balance;
  return parameter ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : self(op).type;
}

std::shared_ptr<OrtCustomOp> make_op(const Runtime& runtime, const Definition& definition,
                                     ONNXTensorElementDataType type) {
  auto op = std::make_shared<KervolutionOp>();
  std::memset(static_cast<OrtCustomOp*>(op.get()), 0, sizeof(OrtCustomOp));
  op->api = runtime.api;
  op->definition = &definition;
  op->type = type;
  op->version = runtime.version;
  op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
  op->GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op->GetInputType = input_type;
  op->GetInputTypeCount = [](const OrtCustomOp* self_op) { return size_t(self(self_op).definition->bias) + 1; };
  op->GetOutputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).type; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op->KernelDestroy = [](void* kernel) { delete static_cast<KervolutionKernel*>(kernel); };
  op->GetInputCharacteristic = [](const OrtCustomOp* self_op, size_t index) {
    return int(index) == self(self_op).definition->bias ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute;
  // ONNX Runtime up to 1.23 crashes before it calls this function where an optional input has the empty name. There the
  // output's type still follows from X's; only its static shape stays unknown.
  if (runtime.release >= 24) op->InferOutputShapeFn = infer_shape;
  op->GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op->GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return op;
}

}  // namespace

void append_kervolution(const Runtime& runtime, CustomOps& ops) {
  for (const Definition& definition : kDefinitions) {
    ops.push_back(make_op(runtime, definition, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    ops.push_back(make_op(runtime, definition, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16));
  }
}

}  // namespace edgeconv
