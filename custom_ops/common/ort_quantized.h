// What the glue of quantised operators does alike: scales and zero-points, and the order of axes.
#ifndef EDGECONV_COMMON_ORT_QUANTIZED_H_
#define EDGECONV_COMMON_ORT_QUANTIZED_H_

#include <array>
#include <string>

#include "common/ort_api.h"

namespace edgeconv {

inline bool is_scalar(const Tensor& tensor) {
  return tensor.dims.empty() || (tensor.dims.size() == 1 && tensor.dims[0] == 1);
}

struct Grid {
  float scale;
  int32_t zero_point;
};

// From the inputs <name>scale and <name>zero_point, which are scalars.
inline Grid read_grid(const Tensor& scale, const Tensor& zero_point, const std::string& name) {
  for (const auto& [tensor, what] :
       {std::pair<const Tensor&, const char*>(scale, "scale"), {zero_point, "zero_point"}}) {
    if (is_scalar(tensor)) continue;
    throw Error{ORT_INVALID_ARGUMENT, name + what + " has shape " + to_text(tensor.dims) + ": expected a scalar"};
  }
  const void* const zero = zero_point.data;
  return {*static_cast<const float*>(scale.data), zero_point.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
                                                      ? *static_cast<const int8_t*>(zero)
                                                      : *static_cast<const uint8_t*>(zero)};
}

// What the attribute `name` says: 1 for channels last, of which the permutation is `last`, 0 for channels first.
inline int32_t channels_last(const OrtApi* api, const OrtKernelInfo* info, const char* name,
                             std::array<int64_t, 4> last) {
  std::array<int64_t, 4> order = {0, 1, 2, 3};
  const std::array<int64_t, 4> first = order;
  read_ints(api, info, name, order.data(), order.size());
  if (order == first) return 0;
  if (order == last) return 1;
  const std::string found = to_text({order.begin(), order.end()}), choice = to_text({last.begin(), last.end()});
  throw Error{ORT_INVALID_ARGUMENT, std::string(name) + " is " + found + ": it must be (0, 1, 2, 3) or " + choice};
}

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_QUANTIZED_H_
