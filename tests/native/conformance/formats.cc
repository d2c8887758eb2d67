// Types and formats as the builder negotiates them: every type with every format, tensor by tensor.
#include <cstring>

#include "conformance.h"

namespace {

using conformance::Handle;
using conformance::require;
using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t kTypes = 10, kFormats = 13;  // kBOOL and kUINT8 are among them, which TensorRT never proposes

class Negotiation {
 public:
  Negotiation(Handle& handle, const DynamicPluginTensorDesc* tensors, int32_t inputs)
      : build_(handle.build()),
        inputs_(inputs),
        outputs_(handle.outputs),
        tensors_(tensors, tensors + inputs_ + outputs_) {}

  // Appends type and format of every tensor for each combination.
  void find(std::vector<int32_t>* combinations) {
    if (place_ == inputs_ + outputs_) {
      for (const DynamicPluginTensorDesc& tensor : tensors_) {
        combinations->push_back(static_cast<int32_t>(tensor.desc.type));
        combinations->push_back(static_cast<int32_t>(tensor.desc.format));
      }
      return;
    }
    for (int32_t type = 0; type < kTypes; ++type) {
      for (int32_t format = 0; format < kFormats; ++format) {
        auto& desc = tensors_[static_cast<size_t>(place_)].desc;
        desc.type = static_cast<DataType>(type);
        desc.format = static_cast<TensorFormat>(format);
        if (!ask()) continue;
        ++place_;
        find(combinations);
        --place_;
      }
    }
  }

 private:
  // The answer may depend on nothing but the tensors up to this one.
  bool ask() {
    const bool answer = ask_with(0, 0);
    require(answer == ask_with(0, 0), "supportsFormatCombination must answer the same twice");
    require(answer == ask_with(1, 2) && answer == ask_with(3, 5),
            "supportsFormatCombination must not depend on later tensors");
    return answer;
  }

  bool ask_with(int32_t type, int32_t format) {
    std::vector<DynamicPluginTensorDesc> given = tensors_;
    for (size_t later = static_cast<size_t>(place_) + 1; later < given.size(); ++later) {
      given[later].desc.type = static_cast<DataType>(type);
      given[later].desc.format = static_cast<TensorFormat>(format);
    }
    const std::vector<DynamicPluginTensorDesc> before = given;
    const bool answer = build_.supportsFormatCombination(place_, given.data(), inputs_, outputs_);
    require(std::memcmp(before.data(), given.data(), given.size() * sizeof(given[0])) == 0,
            "supportsFormatCombination must not change the tensors");
    return answer;
  }

  nvinfer1::IPluginV3OneBuild& build_;
  int32_t inputs_, outputs_, place_ = 0;
  std::vector<DynamicPluginTensorDesc> tensors_;
};

}  // namespace

CONFORMANCE_EXPORT int32_t conformance_types(Handle* handle, const int32_t* inputs, int32_t count, int32_t* outputs) {
  return conformance::checked(-1, [&] {
    const auto* const types = reinterpret_cast<const DataType*>(inputs);
    const std::vector<DataType> in(types, types + count);
    std::vector<DataType> out(static_cast<size_t>(handle->outputs), DataType::kBOOL);
    const int32_t code = handle->build().getOutputDataTypes(out.data(), handle->outputs, in.data(), count);
    for (size_t i = 0; i < out.size(); ++i) outputs[i] = static_cast<int32_t>(out[i]);
    return code;
  });
}

// All combinations, type and format of each tensor; returns their number. At most `room` of them are written.
CONFORMANCE_EXPORT int32_t conformance_formats(Handle* handle, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                               int32_t* combinations, int32_t room) {
  return conformance::checked(-1, [&] {
    std::vector<int32_t> found;
    Negotiation(*handle, tensors, inputs).find(&found);
    const size_t each = 2 * static_cast<size_t>(inputs + handle->outputs);
    const size_t count = found.size() / each;
    require(count <= static_cast<size_t>(room), "there are more combinations than expected");
    require(static_cast<int32_t>(count) <= handle->build().getFormatCombinationLimit(),
            "there are more combinations than getFormatCombinationLimit()");
    std::copy(found.begin(), found.end(), combinations);
    return static_cast<int32_t>(count);
  });
}
