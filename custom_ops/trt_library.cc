// Registration of every operator with TensorRT, under the namespace "edgeconv".
//
// TensorRT calls the two functions below where an application loads the library: trtexec --staticPlugins or
// --dynamicPlugins, IPluginRegistry::loadLibrary. No TensorRT library is linked.
#include "common/trt_library.h"

#include <memory>

namespace edgeconv::trt {
namespace {

// One line an operator family.
std::vector<Operator> make_operators() {
  std::vector<Operator> operators;
  append_kervolution(operators);
  append_qlinear_kervolution(operators);
  append_deconv_whitening(operators);
  return operators;
}

// They live as long as the process: plugins refer to them.
struct Registration {
  std::vector<Operator> operators = make_operators();
  std::vector<std::unique_ptr<Creator>> creators;
  std::vector<nvinfer1::IPluginCreatorInterface*> pointers;

  Registration() {
    for (const Operator& op : operators) {
      creators.push_back(std::make_unique<Creator>(op));
      pointers.push_back(creators.back().get());
    }
  }
};

const Registration& registration() {
  static const Registration& all = *new Registration;
  return all;
}

}  // namespace
}  // namespace edgeconv::trt

// Where TensorRT is of a version that this build cannot serve, a message says so and no creator is returned: a model
// that needs the plugins then fails to parse, and one that carries function bodies is imported by those.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
  using Pointers = nvinfer1::IPluginCreatorInterface* const*;
  const auto where = [] { return std::string(); };
  count = 0;
  return edgeconv::trt::guarded(where, Pointers{}, [&] {
    if (!edgeconv::trt::is_supported_runtime()) return Pointers{};
    const edgeconv::trt::Registration& all = edgeconv::trt::registration();
    count = static_cast<int32_t>(all.pointers.size());
    return Pointers{all.pointers.data()};
  });
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  edgeconv::trt::set_logger_finder(finder);
}
