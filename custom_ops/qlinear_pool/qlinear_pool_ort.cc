// Glue between ONNX Runtime and the kernel of 8-bit means: inputs, attributes, memory. No math.
#include "common/ort_kernel.h"
#include "common/ort_library.h"
#include "common/ort_quantized.h"
#include "qlinear_pool/qlinear_pool.h"

namespace edgeconv {
namespace {

enum : size_t { kX, kXScale, kXZeroPoint, kYScale, kYZeroPoint, kInputCount };

struct QLinearPoolDefinition {
  const char* name;
};

struct QLinearPoolOp : OrtCustomOp {
  const OrtApi* api;
  const QLinearPoolDefinition* definition;
  ONNXTensorElementDataType type;
};

const QLinearPoolOp& self(const OrtCustomOp* op) { return *static_cast<const QLinearPoolOp*>(op); }

class QLinearPoolKernel {
 public:
  QLinearPoolKernel(const QLinearPoolOp& op, const OrtKernelInfo* info)
      : op_(op), prefix_(error_prefix(op.api, info, op.definition->name)) {
    params_.type = op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 ? EDGECONV_INT8 : EDGECONV_UINT8;
    params_.channels_last = channels_last(op.api, info, "x_perm", {0, 3, 1, 2});
  }

  void compute(OrtKernelContext* context) {
    EdgeconvQLinearPoolParams params = params_;
    const auto read = [&](size_t index) { return read_input(api(), context, index); };
    const Tensor x = read(kX);
    if (x.dims.size() != 4) {
      throw Error{ORT_INVALID_ARGUMENT, "X has shape " + to_text(x.dims) + ": expected rank 4"};
    }
    const Grid x_grid = read_grid(read(kXScale), read(kXZeroPoint), "x_");
    const Grid y_grid = read_grid(read(kYScale), read(kYZeroPoint), "y_");
    params.x_scale = x_grid.scale;
    params.x_zero_point = x_grid.zero_point;
    params.y_scale = y_grid.scale;
    params.y_zero_point = y_grid.zero_point;
    params.batch = x.dims[0];
    params.channels = x.dims[params.channels_last ? 3 : 1];
    params.positions = params.channels_last ? x.dims[1] * x.dims[2] : x.dims[2] * x.dims[3];
    EdgeconvConvShape shape = {};
    shape.batch = params.batch;
    shape.out_channels = params.channels;
    shape.out_height = shape.out_width = 1;
    EdgeconvStatus status = {};
    uint8_t* const y = static_cast<uint8_t*>(make_output(api(), context, shape));
    if (is_empty(shape)) return;
    check(edgeconv_qlinear_pool(&params, static_cast<const uint8_t*>(x.data), y, &status), status);
  }

  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  const QLinearPoolOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvQLinearPoolParams params_ = {};
};

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp* op, size_t index) {
  return index == kXScale || index == kYScale ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : self(op).type;
}

}  // namespace

void append_qlinear_pool(const Runtime& runtime, CustomOps& ops) {
  static constexpr QLinearPoolDefinition kDefinition = {"QLinearGlobalAveragePool"};
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}) {
    auto op = std::make_shared<QLinearPoolOp>();
    begin_custom_op<QLinearPoolKernel>(runtime, op.get());
    op->api = runtime.api;
    op->definition = &kDefinition;
    op->type = type;
    op->GetName = [](const OrtCustomOp* self_op) { return self(self_op).definition->name; };
    op->GetInputType = input_type;
    op->GetInputTypeCount = [](const OrtCustomOp*) { return size_t{kInputCount}; };
    op->GetOutputType = [](const OrtCustomOp* self_op, size_t) { return self(self_op).type; };
    op->GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    if (runtime.release >= 24) {
      op->InferOutputShapeFn = [](const OrtCustomOp* self_op, OrtShapeInferContext* context) -> OrtStatus* {
        const QLinearPoolOp& op_self = self(self_op);
        return guarded(op_self.api, std::string(op_self.definition->name) + ": ",
                       [&] { infer_pool_output(op_self.api, context); });
      };
    }
    ops.push_back(std::move(op));
  }
}

}  // namespace edgeconv
