// What ONNX Runtime is told of kervolutions, and what their glue does alike on the CPU and on GPUs.
#ifndef EDGECONV_KERVOLUTION_KERVOLUTION_ORT_H_
#define EDGECONV_KERVOLUTION_KERVOLUTION_ORT_H_

#include <vector>

#include "common/ort_library.h"
#include "kervolution/kervolution.h"

namespace edgeconv {

struct KervolutionDefinition {
  static constexpr int kNoInput = -1;

  const char* name;
  EdgeconvKernel kernel;
  int scale, balance, bias;  // input indices; X is 0, W is 1
};

constexpr KervolutionDefinition kKervolutions[] = {
    {"PolynomialKervolution", EDGECONV_POLYNOMIAL, KervolutionDefinition::kNoInput, 2, 3},
    {"GaussianKervolution", EDGECONV_GAUSSIAN, 2, KervolutionDefinition::kNoInput, 3},
    {"SigmoidKervolution", EDGECONV_SIGMOID, 2, 3, 4},
    {"EuclideanKervolution", EDGECONV_EUCLIDEAN, KervolutionDefinition::kNoInput, KervolutionDefinition::kNoInput, 2},
    {"ManhattanKervolution", EDGECONV_MANHATTAN, KervolutionDefinition::kNoInput, KervolutionDefinition::kNoInput, 2},
    {"ChebyshevKervolution", EDGECONV_CHEBYSHEV, KervolutionDefinition::kNoInput, KervolutionDefinition::kNoInput, 2},
};

// ONNX Runtime wants one object for each type and each provider.
struct KervolutionOp : OrtCustomOp {
  const OrtApi* api;
  const KervolutionDefinition* definition;
  ONNXTensorElementDataType type;
  bool tf32;  // on GPUs: products may be computed in TF32
};

// What a node states.
class KervolutionNode {
 public:
  KervolutionNode(const KervolutionOp& op, const OrtKernelInfo* info);

  // Parameters without the input part of the shape.
  EdgeconvKervolutionParams filter_params(const std::vector<int64_t>& w_dims) const;
  // Completes them.
  void set_input(const std::vector<int64_t>& x_dims, EdgeconvKervolutionParams* params) const;
  // Inputs `scale` and `balance`: one value, or one an output channel. Null where the operator has none.
  EdgeconvChannelValues scale(OrtKernelContext* context, int64_t channels) const;
  EdgeconvChannelValues balance(OrtKernelContext* context, int64_t channels) const;

 private:
  EdgeconvChannelValues channel_values(OrtKernelContext* context, int index, const char* name, int64_t channels) const;

  const KervolutionOp& op_;
  EdgeconvConvAttributes attributes_;
  int64_t degree_ = 1;
  EdgeconvPrecision precision_ = EDGECONV_FLOAT32_PRECISION;
};

// Sets what depends on the operator alone, after begin_custom_op.
void describe_kervolution(const Runtime& runtime, const KervolutionDefinition& definition,
                          ONNXTensorElementDataType type, KervolutionOp* op);

}  // namespace edgeconv

#endif  // EDGECONV_KERVOLUTION_KERVOLUTION_ORT_H_
