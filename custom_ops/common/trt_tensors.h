// The tensors of a plugin's call, one profile's range of them, and both in words.
#ifndef EDGECONV_COMMON_TRT_TENSORS_H_
#define EDGECONV_COMMON_TRT_TENSORS_H_

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace edgeconv::trt {

// The tensors of a call.
struct Tensors {
  std::vector<nvinfer1::PluginTensorDesc> inputs, outputs;

  // Input `index`, or null where the node does not have it.
  const nvinfer1::PluginTensorDesc* input(size_t index) const {
    return index < inputs.size() && inputs[index].dims.nbDims >= 0 ? &inputs[index] : nullptr;
  }
};

// Whether types, formats and dimensions are the same.
bool same_tensors(const std::vector<nvinfer1::PluginTensorDesc>& known, const nvinfer1::PluginTensorDesc* now);

// The inputs as a profile allows them: the best shapes, and a grid from the least to the largest with as many steps for
// the batch as for the other axes. False where the profile has no sizes.
bool sample_profile(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs, std::vector<Tensors>* samples);

// "float32".
const char* type_name(nvinfer1::DataType type);
// "(1, 3, 224, 224)".
std::string to_text(const nvinfer1::Dims& dims);

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_TENSORS_H_
