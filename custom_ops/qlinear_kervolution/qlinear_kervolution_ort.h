// What ONNX Runtime is told of 8-bit kervolutions, and what their glue does alike on the CPU and on GPUs.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_ORT_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_ORT_H_

#include <vector>

#include "common/ort_library.h"
#include "qlinear_kervolution/qlinear_kervolution.h"

namespace edgeconv {

// Inputs, in the order of ONNX QLinearConv.
enum QLinearInput : size_t {
  kX,
  kXScale,
  kXZeroPoint,
  kW,
  kWScale,
  kWZeroPoint,
  kYScale,
  kYZeroPoint,
  kBias,
  kInputCount
};

struct QLinearKervolutionDefinition {
  const char* name;
  EdgeconvQLinearKernel kernel;
};

// ONNX Runtime wants one object for each combination of types and each provider.
struct QLinearKervolutionOp : OrtCustomOp {
  const OrtApi* api;
  const QLinearKervolutionDefinition* definition;
  ONNXTensorElementDataType x_type, w_type, y_type;
};

// The inputs that packing depends on.
struct QLinearFilterInputs {
  Tensor x_scale, x_zero_point, w, w_scale, w_zero_point;
  bool complete() const { return x_scale.data && x_zero_point.data && w.data && w_scale.data && w_zero_point.data; }

  template <typename Read>
  static QLinearFilterInputs from(const Read& read) {
    return {read(kXScale), read(kXZeroPoint), read(kW), read(kWScale), read(kWZeroPoint)};
  }
};

// Parameters without the input part of the shape, and the filters. Scales and x_zero_point must lie on the host.
void read_filters(const QLinearKervolutionOp& op, const EdgeconvConvAttributes& attributes,
                  const QLinearFilterInputs& inputs, EdgeconvQLinearKervolutionParams* params,
                  EdgeconvQLinearFilters* filters);

// Scalars on the host; anything of another shape is an error that says `name`.
float float_scalar(const Tensor& tensor, const char* name);
int32_t byte_scalar(const Tensor& tensor, const char* name);

// Sets what depends on the operator alone, after begin_custom_op.
void describe_qlinear_kervolution(const Runtime& runtime, const QLinearKervolutionDefinition& definition,
                                  ONNXTensorElementDataType x_type, ONNXTensorElementDataType w_type,
                                  ONNXTensorElementDataType y_type, QLinearKervolutionOp* op);

// Calls add(definition, x_type, w_type, y_type) for all of them.
template <typename Add>
void for_each_qlinear_kervolution(const Add& add) {
  static constexpr QLinearKervolutionDefinition kDefinitions[] = {
      {"QLinearManhattanKervolution", EDGECONV_QLINEAR_MANHATTAN}};
  constexpr ONNXTensorElementDataType kBytes[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8};
  for (const QLinearKervolutionDefinition& definition : kDefinitions) {
    for (const auto x_type : kBytes) {
      for (const auto w_type : kBytes) {
        for (const auto y_type : kBytes) add(definition, x_type, w_type, y_type);
      }
    }
  }
}

}  // namespace edgeconv

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_ORT_H_
