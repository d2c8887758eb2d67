// Glue between ONNX Runtime and the CUDA kernels of kervolution: inputs, memory and the stream. No math.
#include <string>

#include "common/ort_cuda.h"
#include "kervolution/kervolution_cuda.h"
#include "kervolution/kervolution_ort.h"

namespace edgeconv {
namespace {

class KervolutionCudaKernel {
 public:
  KervolutionCudaKernel(const KervolutionOp& op, const OrtKernelInfo* info);
  void compute(OrtKernelContext* context);
  const OrtApi* api() const { return op_.api; }
  const std::string& prefix() const { return prefix_; }

 private:
  void pack(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionCudaPlan& plan, const Tensor& w,
            const Buffer& packed, void* stream) const;

  const KervolutionOp& op_;
  std::string prefix_;  // of error messages: operator and node
  KervolutionNode node_;
  CudaSession gpu_;
  EdgeconvKervolutionParams params_ = {};  // filter part, where W is an initialiser
  bool is_packed_ = false;                 // whether it is
  Buffer packed_;
};

KervolutionCudaKernel::KervolutionCudaKernel(const KervolutionOp& op, const OrtKernelInfo* info)
    : op_(op), prefix_(error_prefix(op.api, info, op.definition->name)), node_(op, info), gpu_(op.api, info, op.tf32) {
  Buffer copy;
  const Tensor w = gpu_.device_constant(info, 1, &copy);
  if (w.data == nullptr) return;
  EdgeconvStatus status = {};
  EdgeconvKervolutionCudaPlan plan = {};
  params_ = node_.filter_params(w.dims);
  check(edgeconv_kervolution_cuda_plan(&params_, &gpu_.format(), &gpu_.device(), &plan, &status), status, {{"W", &w}});
  packed_ = gpu_.allocate(plan.packed_bytes, "packed filters");
  pack(params_, plan, w, packed_, nullptr);
  gpu_.finish();
  is_packed_ = true;
}

void KervolutionCudaKernel::pack(const EdgeconvKervolutionParams& params, const EdgeconvKervolutionCudaPlan& plan,
                                 const Tensor& w, const Buffer& packed, void* stream) const {
  EdgeconvStatus status = {};
  check(edgeconv_kervolution_cuda_pack(&params, &plan, w.data, packed.get(), stream, &status), status, {{"W", &w}});
}

void KervolutionCudaKernel::compute(OrtKernelContext* context) {
  EdgeconvStatus status = {};
  const Tensor x = read_input(api(), context, 0), w = read_input(api(), context, 1);
  EdgeconvKervolutionParams params = is_packed_ ? params_ : node_.filter_params(w.dims);
  node_.set_input(x.dims, &params);
  const EdgeconvConvShape& shape = params.shape;
  EdgeconvKervolutionCudaArguments arguments = {};
  arguments.x = x.data;
  arguments.w = w.data;
  arguments.scale = node_.scale(context, shape.out_channels);
  arguments.balance = node_.balance(context, shape.out_channels);
  arguments.bias = read_bias(api(), context, static_cast<size_t>(op_.definition->bias), shape.out_channels).data;
  arguments.y = make_output(api(), context, shape);
  if (is_empty(shape)) return;
  check_alignment(x, "X");
  check_alignment(w, "W");

  void* const stream = gpu_.stream(context);
  EdgeconvKervolutionCudaPlan plan = {};
  check(edgeconv_kervolution_cuda_plan(&params, &gpu_.format(), &gpu_.device(), &plan, &status), status,
        {{"X", &x}, {"W", &w}});
  Buffer packed_now;
  if (!is_packed_) {
    packed_now = gpu_.allocate(context, plan.packed_bytes, "packed filters");
    pack(params, plan, w, packed_now, stream);
  }
  arguments.packed = is_packed_ ? packed_.get() : packed_now.get();
  const Buffer workspace = gpu_.allocate(context, plan.workspace_bytes, "the workspace");
  arguments.workspace = workspace.get();
  check(edgeconv_kervolution_cuda_run(&params, &plan, &arguments, stream, &status), status, {{"X", &x}, {"W", &w}});
}

}  // namespace

void append_kervolution_cuda(const Runtime& runtime, CustomOps& ops) {
  for (const KervolutionDefinition& definition : kKervolutions) {
    for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
      auto op = std::make_shared<KervolutionOp>();
      begin_custom_op<KervolutionCudaKernel>(runtime, op.get());
      describe_kervolution(runtime, definition, type, op.get());
      run_on_cuda(runtime, op.get());
      ops.push_back(std::move(op));
    }
  }
}

}  // namespace edgeconv
