// Glue between ONNX Runtime and the kernels of 8-bit convolutions and mobile blocks: inputs, attributes, memory and
// threads. No math.
#include <array>
#include <mutex>
#include <string>

#include "common/ort_library.h"
#include "common/ort_quantized.h"
#include "common/ort_strands.h"
#include "qlinear_mobile/qlinear_mobile.h"

namespace edgeconv {
namespace {

// An operator: the stages it has, and what they are called in its attributes.
struct QLinearMobileDefinition {
  const char* name;
  std::vector<int> stages;
  bool residual;
  std::vector<std::string> limits;        // attributes of stage i: <limits[i]>min, <limits[i]>max
  int function = EDGECONV_NO_FUNCTION;    // B is float32 then
  std::vector<std::string> parameters{};  // of the function: its inputs behind those of the stage

  size_t input_count() const { return 3 + 5 * stages.size() + (residual ? 2 : 0) + parameters.size(); }
};

// Inputs: X, x_scale, x_zero_point; of each stage W, w_scale, B, y_scale, y_zero_point; of the residual y_scale and
// y_zero_point, or the function's parameters.
enum : size_t { kX, kXScale, kXZeroPoint, kFirstStage, kStageInputs = 5 };
enum StageInput : size_t { kW, kWScale, kB, kYScale, kYZeroPoint };

struct QLinearMobileOp : OrtCustomOp {
  const OrtApi* api;
  const QLinearMobileDefinition* definition;
  ONNXTensorElementDataType type;
};

const QLinearMobileOp& self(const OrtCustomOp* op) { return *static_cast<const QLinearMobileOp*>(op); }

EdgeconvQLinearGrid grid(const Tensor& scale, const Tensor& zero_point, const std::string& name) {
  const Grid found = read_grid(scale, zero_point, name);
  return {found.scale, found.zero_point};
}

// One for all filters, or one each.
void check_per_filter(const Tensor& tensor, const std::string& name, int64_t filters) {
  if (is_scalar(tensor) || (tensor.dims.size() == 1 && tensor.dims[0] == filters)) return;
  throw Error{ORT_INVALID_ARGUMENT,
              name + " has shape " + to_text(tensor.dims) + ": expected a scalar or (" + std::to_string(filters) + ")"};
}

class QLinearMobileKernel {
 public:
  QLinearMobileKernel(const QLinearMobileOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  // Parameters without the input part of the shapes, and packed weights.
  struct Prepared {
    EdgeconvQLinearMobileParams params = {};
    EdgeconvQLinearMobilePlan plan = {};
    Buffer packed;
  };
  // The same for an input of one size (N, H, W).
  struct Planned {
    EdgeconvQLinearMobileParams params = {};
    EdgeconvQLinearMobilePlan plan = {};
  };
  void prepare(const std::vector<Tensor>& inputs, Prepared* prepared) const;
  void read_parameters(const std::vector<Tensor>& inputs, int64_t filters, EdgeconvQLinearWeights* weights) const;
  // The plan for an input of this size: the last one where it is the same.
  Planned plan(const Prepared& prepared, const std::array<int64_t, 3>& size);

  const QLinearMobileOp& op_;
  std::string prefix_;                                                  // of error messages: operator and node
  std::array<EdgeconvConvAttributes, EDGECONV_MOBILE_STAGES> windows_;  // of each stage
  EdgeconvQLinearMobileParams given_ = {};                              // what the attributes say
  int isa_ = 0;
  Owner<OrtAllocator> allocator_;
  Prepared prepared_;  // without packed weights where not all inputs but X are initialisers
  std::mutex mutex_;   // of the two below
  std::array<int64_t, 3> planned_size_ = {-1, -1, -1};
  Planned planned_;
};

QLinearMobileKernel::QLinearMobileKernel(const QLinearMobileOp& op, const OrtKernelInfo* info)
    : op_(op), allocator_(kernel_allocator(op.api, info)) {
  const OrtApi* api = op.api;
  const QLinearMobileDefinition& definition = *op.definition;
  prefix_ = error_prefix(api, info, definition.name);
  for (EdgeconvConvAttributes& window : windows_) edgeconv_conv_attributes_init(&window);
  EdgeconvConvAttributes& window = windows_[EDGECONV_MOBILE_DEPTHWISE];
  window = read_conv_attributes(api, info);
  if (definition.stages.size() == 1) {
    windows_[EDGECONV_MOBILE_DENSE] = window;
  } else {
    read_ints(api, info, "expand_strides", windows_[EDGECONV_MOBILE_DENSE].strides, 2);
    read_ints(api, info, "expand_pads", windows_[EDGECONV_MOBILE_DENSE].pads, 4);
  }
  given_.type = op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? EDGECONV_INT8 : EDGECONV_UINT8;
  given_.residual = definition.residual;
  given_.function = definition.function;
  given_.degree = read_int(api, info, "degree", 3);
  given_.x_channels_last = channels_last(api, info, "x_perm", {0, 3, 1, 2});
  given_.y_channels_last = channels_last(api, info, "y_perm", {0, 2, 3, 1});
  for (size_t i = 0; i < definition.stages.size(); ++i) {
    EdgeconvQLinearStage& stage = given_.stages[definition.stages[i]];
    stage.least = -3.402823466e38f;
    stage.most = 3.402823466e38f;
    if (i >= definition.limits.size()) continue;
    stage.least = read_float(api, info, (definition.limits[i] + "min").c_str(), stage.least);
    stage.most = read_float(api, info, (definition.limits[i] + "max").c_str(), stage.most);
  }
  EdgeconvStatus status = {};
  check(edgeconv_select_isa(&isa_, &status), status);
  std::vector<Tensor> constants(definition.input_count());
  for (size_t i = kXScale; i < constants.size(); ++i) {
    constants[i] = read_constant(api, info, i);
    if (constants[i].data == nullptr) return;
  }
  prepare(constants, &prepared_);
}

void QLinearMobileKernel::prepare(const std::vector<Tensor>& inputs, Prepared* prepared) const {
  EdgeconvStatus status = {};
  EdgeconvQLinearMobileParams& params = prepared->params;
  params = given_;
  params.x = grid(inputs[kXScale], inputs[kXZeroPoint], "x_");
  const std::vector<int>& stages = op_.definition->stages;
  std::array<EdgeconvQLinearWeights, EDGECONV_MOBILE_STAGES> weights = {};
  size_t at = kFirstStage;
  for (size_t i = 0; i < stages.size(); ++i, at += kStageInputs) {
    const Tensor &w = inputs[at + kW], &scale = inputs[at + kWScale], &bias = inputs[at + kB];
    const EdgeconvConvAttributes& window = windows_[static_cast<size_t>(stages[i])];
    EdgeconvConvShape shape;
    check(edgeconv_conv_filter_shape(&window, w.dims.data(), w.dims.size(), &shape, &status), status);
    // A convolution of one channel a group is depthwise.
    int kind = stages[i];
    if (stages.size() == 1 && shape.group > 1 && params.function == EDGECONV_NO_FUNCTION) {
      kind = EDGECONV_MOBILE_DEPTHWISE;
      std::swap(params.stages[EDGECONV_MOBILE_DENSE], params.stages[kind]);
    }
    EdgeconvQLinearStage& stage = params.stages[kind];
    stage.shape = shape;
    stage.y = grid(inputs[at + kYScale], inputs[at + kYZeroPoint], "y_");
    const int64_t count = shape.out_channels;
    check_per_filter(scale, "the scale of W", count);
    if (bias.dims.size() != 1 || bias.dims[0] != count) {
      throw Error{ORT_INVALID_ARGUMENT,
                  "B has shape " + to_text(bias.dims) + ": expected (" + std::to_string(count) + ")"};
    }
    EdgeconvQLinearWeights& given = weights[static_cast<size_t>(kind)];
    given.w = static_cast<const int8_t*>(w.data);
    given.scale = static_cast<const float*>(scale.data);
    given.scale_stride = is_scalar(scale) ? 0 : 1;
    if (params.function == EDGECONV_NO_FUNCTION) {
      given.bias = static_cast<const int32_t*>(bias.data);
    } else {
      given.real_bias = static_cast<const float*>(bias.data);
      read_parameters(inputs, count, &given);
    }
  }
  if (op_.definition->residual) params.sum = grid(inputs[at], inputs[at + 1], "y_");
  check(edgeconv_qlinear_mobile_packing_plan(&params, isa_, &prepared->plan, &status), status);
  prepared->packed = Buffer(allocator_.get(), static_cast<size_t>(prepared->plan.packed_bytes));
  check(edgeconv_qlinear_mobile_pack(&params, isa_, &prepared->plan, weights.data(), prepared->packed.get(), &status),
        status);
}

void QLinearMobileKernel::read_parameters(const std::vector<Tensor>& inputs, int64_t filters,
                                          EdgeconvQLinearWeights* weights) const {
  const std::vector<std::string>& names = op_.definition->parameters;
  for (size_t i = 0; i < names.size(); ++i) {
    const Tensor& tensor = inputs[kFirstStage + kStageInputs + i];
    check_per_filter(tensor, names[i], filters);
    const bool second = names[i] == "balance";
    (second ? weights->second : weights->first) = static_cast<const float*>(tensor.data);
    (second ? weights->second_stride : weights->first_stride) = is_scalar(tensor) ? 0 : 1;
  }
}

QLinearMobileKernel::Planned QLinearMobileKernel::plan(const Prepared& prepared, const std::array<int64_t, 3>& size) {
  const bool kept = &prepared == &prepared_;
  if (kept) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (size == planned_size_) return planned_;
  }
  EdgeconvStatus status = {};
  Planned made = {prepared.params, prepared.plan};
  check(
      edgeconv_qlinear_mobile_plan(&made.params, isa_, size[0], size[1], size[2], windows_.data(), &made.plan, &status),
      status);
  if (kept) {
    const std::lock_guard<std::mutex> lock(mutex_);
    planned_ = made;
    planned_size_ = size;
  }
  return made;
}

void QLinearMobileKernel::compute(OrtKernelContext* context) {
  Prepared now;
  const Prepared* prepared = &prepared_;
  if (prepared_.packed.get() == nullptr) {
    std::vector<Tensor> inputs(op_.definition->input_count());
    for (size_t i = kXScale; i < inputs.size(); ++i) inputs[i] = read_input(api(), context, i);
    prepare(inputs, &now);
    prepared = &now;
  }
  const Tensor x = read_input(api(), context, kX);
  if (x.dims.size() != 4) {
    throw Error{ORT_INVALID_ARGUMENT, "X has shape " + to_text(x.dims) + ": expected rank 4"};
  }
  const bool last = given_.x_channels_last != 0;
  const int64_t channels = x.dims[last ? 3 : 1];
  const int64_t expected = prepared->params.stages[prepared->plan.first].shape.in_channels;
  if (channels != expected) {
    throw Error{ORT_INVALID_ARGUMENT, "X has shape " + to_text(x.dims) + ": expected " + std::to_string(expected) +
                                          " channels" + (last ? ", the last axis" : "")};
  }
  const Planned planned = this->plan(*prepared, {x.dims[0], x.dims[last ? 1 : 2], x.dims[last ? 2 : 3]});
  const EdgeconvQLinearMobileParams& params = planned.params;
  const EdgeconvQLinearMobilePlan& plan = planned.plan;
  EdgeconvConvShape output = params.stages[plan.last].shape;
  if (params.y_channels_last) {
    const int64_t filters = output.out_channels;
    output.out_channels = output.out_height;
    output.out_height = output.out_width;
    output.out_width = filters;
  }
  EdgeconvQLinearMobileArguments arguments = {};
  arguments.x = static_cast<const uint8_t*>(x.data);
  arguments.packed = prepared->packed.get();
  arguments.y = static_cast<uint8_t*>(make_output(api(), context, output));
  if (is_empty(output)) return;
  Buffer shared;
  if (plan.shared_bytes > 0) shared = Buffer(allocator_.get(), static_cast<size_t>(plan.shared_bytes));
  arguments.shared = shared.get();
  Strands strands(allocator_.get(), static_cast<size_t>(plan.scratch_bytes), edgeconv_qlinear_mobile_begin);
  for (int64_t phase = 0; phase < plan.phases; ++phase) {
    run_strands(api(), context, strands, plan.tasks[phase % 2], [&](int64_t task, void* scratch) {
      edgeconv_qlinear_mobile_run(&params, isa_, &plan, &arguments, phase, task, task + 1, scratch);
    });
  }
}

OrtStatus* ORT_API_CALL infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const QLinearMobileDefinition& definition = *self(op).definition;
  return guarded(self(op).api, std::string(definition.name) + ": ", [&] {
    size_t window = kFirstStage;
    for (size_t i = 0; i < definition.stages.size(); ++i) {
      if (definition.stages[i] == EDGECONV_MOBILE_DEPTHWISE) window = kFirstStage + i * kStageInputs;
    }
    const size_t last = kFirstStage + (definition.stages.size() - 1) * kStageInputs;
    infer_conv_output(self(op).api, context, window, kX, last, window > kFirstStage ? size_t{kFirstStage} : size_t{0});
  });
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  if (index == kX || index == kXZeroPoint) return self(op).type;
  if (index == kXScale) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const size_t stage = (index - kFirstStage) / kStageInputs;
  const QLinearMobileDefinition& definition = *self(op).definition;
  if (stage >= definition.stages.size()) {
    return definition.residual && index + 1 == definition.input_count() ? self(op).type
                                                                        : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  switch ((index - kFirstStage) % kStageInputs) {
    case kW: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case kB:
      return definition.function == EDGECONV_NO_FUNCTION ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32
                                                         : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case kYZeroPoint: return self(op).type;
    default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
}

}  // namespace

void append_qlinear_mobile(const Runtime& runtime, CustomOps& ops) {
  constexpr int kDense = EDGECONV_MOBILE_DENSE, kDepthwise = EDGECONV_MOBILE_DEPTHWISE,
                kPointwise = EDGECONV_MOBILE_POINTWISE;
  static const std::array<QLinearMobileDefinition, 8> definitions = {{
      {"QLinearConvolution", {kDense}, false, {""}},
      {"QLinearSeparableConvolution", {kDepthwise, kPointwise}, false, {"depthwise_", ""}},
      {"QLinearBottleneck", {kDense, kDepthwise, kPointwise}, false, {"expand_", "depthwise_", ""}},
      {"QLinearInvertedResidual", {kDense, kDepthwise, kPointwise}, true, {"expand_", "depthwise_"}},
      {"QLinearPolynomialKervolution", {kDense}, false, {}, EDGECONV_QLINEAR_POLYNOMIAL, {"balance"}},
      {"QLinearGaussianKervolution", {kDense}, false, {}, EDGECONV_QLINEAR_GAUSSIAN, {"gamma"}},
      {"QLinearSigmoidKervolution", {kDense}, false, {}, EDGECONV_QLINEAR_SIGMOID, {"scale", "balance"}},
      {"QLinearEuclideanKervolution", {kDense}, false, {}, EDGECONV_QLINEAR_EUCLIDEAN, {}},
  }};
  for (const QLinearMobileDefinition& definition : definitions) {
    for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}) {
      auto op = std::make_shared<QLinearMobileOp>();
      begin_custom_op<QLinearMobileKernel>(runtime, op.get());
      op->api = runtime.api;
      op->definition = &definition;
      op->type = type;
      op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
      op->GetInputType = input_type;
      op->GetInputTypeCount = [](const OrtCustomOp* self_op) { return self(self_op).definition->input_count(); };
      op->GetOutputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).type; };
      op->GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
      if (runtime.release >= 24) op->InferOutputShapeFn = infer_shape;
      ops.push_back(std::move(op));
    }
  }
}

}  // namespace edgeconv
