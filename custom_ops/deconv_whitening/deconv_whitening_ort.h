// What ONNX Runtime is told of whitening, and what its glue does alike on the CPU and on GPUs.
#ifndef EDGECONV_DECONV_WHITENING_DECONV_WHITENING_ORT_H_
#define EDGECONV_DECONV_WHITENING_DECONV_WHITENING_ORT_H_

#include <vector>

#include "common/ort_library.h"
#include "deconv_whitening/deconv_whitening.h"

namespace edgeconv {

struct DeconvWhiteningDefinition {
  const char* name;
};

// ONNX Runtime wants one object for each type of X and each provider.
struct DeconvWhiteningOp : OrtCustomOp {
  const OrtApi* api;
  const DeconvWhiteningDefinition* definition;
  ONNXTensorElementDataType type;
  bool tf32;  // on GPUs: products may be computed in TF32
};

// A node's attributes, checked.
EdgeconvDeconvWhiteningAttributes read_whitening_attributes(const OrtApi* api, const OrtKernelInfo* info);

EdgeconvDeconvWhiteningParams whitening_params(const DeconvWhiteningOp& op,
                                               const EdgeconvDeconvWhiteningAttributes& attributes,
                                               const std::vector<int64_t>& x_dims);

// The memory of the outputs.
void make_whitening_outputs(const OrtApi* api, OrtKernelContext* context, const EdgeconvDeconvWhiteningParams& params,
                            EdgeconvDeconvWhiteningArguments* arguments);

// Sets what depends on the operator alone, after begin_custom_op.
void describe_deconv_whitening(const Runtime& runtime, ONNXTensorElementDataType type, DeconvWhiteningOp* op);

}  // namespace edgeconv

#endif  // EDGECONV_DECONV_WHITENING_DECONV_WHITENING_ORT_H_
