// Glue between ONNX Runtime and the CUDA kernels of 8-bit kervolution: inputs, memory and the stream. No math.
#include <string>

#include "common/ort_cuda.h"
#include "qlinear_kervolution/qlinear_kervolution_cuda.h"
#include "qlinear_kervolution/qlinear_kervolution_ort.h"

namespace edgeconv {
namespace {

using Params = EdgeconvQLinearKervolutionParams;
using Plan = EdgeconvQLinearKervolutionCudaPlan;

class QLinearKervolutionCudaKernel {
 public:
  QLinearKervolutionCudaKernel(const QLinearKervolutionOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  Plan plan(const Params& params, NamedTensors tensors) const;
  void pack(const Params& params, const Plan& plan, const QLinearFilterInputs& inputs, EdgeconvQLinearFilters filters,
            const Buffer& scales, const Buffer& packed, void* stream) const;

  const QLinearKervolutionOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvConvAttributes attributes_;
  CudaSession gpu_;
  Params params_ = {};      // filter part, where W and what it is packed with are initialisers
  bool is_packed_ = false;  // whether they are
  Buffer packed_;
};

// Read on the host: kernels take them as arguments, or (w_scale) the choice of a kernel depends on them.
bool is_host_input(size_t index) {
  return index == kXScale || index == kXZeroPoint || index == kWScale || index == kYScale || index == kYZeroPoint;
}

int64_t scale_bytes(const QLinearFilterInputs& inputs) { return static_cast<int64_t>(tensor_bytes(inputs.w_scale)); }

QLinearKervolutionCudaKernel::QLinearKervolutionCudaKernel(const QLinearKervolutionOp& op, const OrtKernelInfo* info)
    : op_(op),
      prefix_(error_prefix(op.api, info, op.definition->name)),
      attributes_(read_conv_attributes(op.api, info)),
      gpu_(op.api, info, false) {
  Buffer copies[kInputCount];
  const auto constants = QLinearFilterInputs::from([&](size_t index) {
    return is_host_input(index) ? read_constant(op.api, info, index)
                                : gpu_.device_constant(info, index, &copies[index]);
  });
  if (!constants.complete()) return;
  EdgeconvQLinearFilters filters;
  read_filters(op, attributes_, constants, &params_, &filters);
  const Plan plan_now = plan(params_, {{"W", &constants.w}});
  packed_ = gpu_.allocate(plan_now.packed_bytes, "packed filters");
  const Buffer scales = gpu_.allocate(scale_bytes(constants), "scales");
  pack(params_, plan_now, constants, filters, scales, packed_, nullptr);
  gpu_.finish();
  is_packed_ = true;
}

Plan QLinearKervolutionCudaKernel::plan(const Params& params, NamedTensors tensors) const {
  EdgeconvStatus status = {};
  Plan plan = {};
  check(edgeconv_qlinear_kervolution_cuda_plan(&params, &gpu_.format(), &gpu_.device(), &plan, &status), status,
        tensors);
  return plan;
}

void QLinearKervolutionCudaKernel::pack(const Params& params, const Plan& plan, const QLinearFilterInputs& inputs,
                                        EdgeconvQLinearFilters filters, const Buffer& scales, const Buffer& packed,
                                        void* stream) const {
  EdgeconvStatus status = {};
  gpu_.upload(inputs.w_scale, scales, stream);
  filters.scale = static_cast<const float*>(scales.get());
  check(edgeconv_qlinear_kervolution_cuda_pack(&params, &plan, &filters, packed.get(), stream, &status), status,
        {{"W", &inputs.w}});
}

void QLinearKervolutionCudaKernel::compute(OrtKernelContext* context) {
  const auto read = [&](size_t index) { return read_input(api(), context, index); };
  EdgeconvStatus status = {};
  const auto inputs = QLinearFilterInputs::from(read);
  const Tensor x = read(kX);
  Params params = params_;
  EdgeconvQLinearFilters filters;
  if (!is_packed_) read_filters(op_, attributes_, inputs, &params, &filters);
  check(edgeconv_conv_input_shape(&attributes_, x.dims.data(), x.dims.size(), &params.shape, &status), status);
  const EdgeconvConvShape& shape = params.shape;
  EdgeconvQLinearKervolutionCudaArguments arguments = {};
  arguments.x = x.data;
  arguments.bias = static_cast<const float*>(read_bias(api(), context, kBias, shape.out_channels).data);
  arguments.y_scale = float_scalar(read(kYScale), "y_scale");
  arguments.y_zero_point = byte_scalar(read(kYZeroPoint), "y_zero_point");
  arguments.y = make_output(api(), context, shape);
  if (is_empty(shape)) return;
  check_alignment(x, "X");
  check_alignment(inputs.w, "W");

  void* const stream = gpu_.stream(context);
  const NamedTensors tensors = {{"X", &x}, {"W", &inputs.w}};
  const Plan plan_now = plan(params, tensors);
  Buffer scales, packed_now;
  if (!is_packed_) {
    scales = gpu_.allocate(context, scale_bytes(inputs), "scales");
    packed_now = gpu_.allocate(context, plan_now.packed_bytes, "packed filters");
    pack(params, plan_now, inputs, filters, scales, packed_now, stream);
  }
  arguments.packed = is_packed_ ? packed_.get() : packed_now.get();
  const Buffer workspace = gpu_.allocate(context, plan_now.workspace_bytes, "the workspace");
  arguments.workspace = workspace.get();
  check(edgeconv_qlinear_kervolution_cuda_run(&params, &plan_now, &arguments, stream, &status), status, tensors);
}

}  // namespace

void append_qlinear_kervolution_cuda(const Runtime& runtime, CustomOps& ops) {
  for_each_qlinear_kervolution(
      [&](const QLinearKervolutionDefinition& definition, auto x_type, auto w_type, auto y_type) {
        auto op = std::make_shared<QLinearKervolutionOp>();
        begin_custom_op<QLinearKervolutionCudaKernel>(runtime, op.get());
        describe_qlinear_kervolution(runtime, definition, x_type, w_type, y_type, op.get());
        op->GetInputMemoryType = [](const OrtCustomOp*, size_t index) {
          return is_host_input(index) ? OrtMemTypeCPUInput : OrtMemTypeDefault;
        };
        run_on_cuda(runtime, op.get());
        ops.push_back(std::move(op));
      });
}

}  // namespace edgeconv
