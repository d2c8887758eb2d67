// Glue between ONNX Runtime and the CUDA kernels of whitening: input, memory and the stream. No math.
#include <string>

#include "common/ort_cuda.h"
#include "deconv_whitening/deconv_whitening_cuda.h"
#include "deconv_whitening/deconv_whitening_ort.h"

namespace edgeconv {
namespace {

class DeconvWhiteningCudaKernel {
 public:
  DeconvWhiteningCudaKernel(const DeconvWhiteningOp& op, const OrtKernelInfo* info)
      : op_(op),
        prefix_(error_prefix(op.api, info, op.definition->name)),
        attributes_(read_whitening_attributes(op.api, info)),
        gpu_(op.api, info, op.tf32) {}
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  const DeconvWhiteningOp& op_;
  std::string prefix_;  // of error messages: operator and node
  EdgeconvDeconvWhiteningAttributes attributes_;
  CudaSession gpu_;
};

void DeconvWhiteningCudaKernel::compute(OrtKernelContext* context) {
  EdgeconvStatus status = {};
  EdgeconvDeconvWhiteningCudaPlan plan = {};
  const Tensor x = read_input(api(), context, 0);
  const EdgeconvDeconvWhiteningParams params = whitening_params(op_, attributes_, x.dims);
  check_alignment(x, "X");
  check(edgeconv_deconv_whitening_cuda_plan(&params, &gpu_.format(), &gpu_.device(), &plan, &status), status,
        {{"X", &x}});
  const Buffer workspace = gpu_.allocate(context, plan.workspace_bytes, "the workspace");
  EdgeconvDeconvWhiteningArguments arguments = {};
  arguments.x = x.data;
  arguments.workspace = workspace.get();
  make_whitening_outputs(api(), context, params, &arguments);
  check(edgeconv_deconv_whitening_cuda_run(&params, &plan, &arguments, gpu_.stream(context), &status), status,
        {{"X", &x}});
}

}  // namespace

void append_deconv_whitening_cuda(const Runtime& runtime, CustomOps& ops) {
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    auto op = std::make_shared<DeconvWhiteningOp>();
    begin_custom_op<DeconvWhiteningCudaKernel>(runtime, op.get());
    describe_deconv_whitening(runtime, type, op.get());
    run_on_cuda(runtime, op.get());
    ops.push_back(std::move(op));
  }
}

}  // namespace edgeconv
