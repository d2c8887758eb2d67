// Loading a plugin library as IPluginRegistry::loadLibrary does, its creators, and its messages.
#include <dlfcn.h>

#include <cstring>

#include "conformance.h"

namespace {

using conformance::require;

int32_t infer_version = 0;
std::string messages, broken, text;
std::vector<nvinfer1::IPluginCreatorV3One*> creators;

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    messages += std::to_string(static_cast<int32_t>(severity)) + " " + message + "\n";
  }
} logger;

class LoggerFinder : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return &logger; }
} logger_finder;

}  // namespace

namespace conformance {

void set_broken(const std::string& rule) { broken = rule; }

nvinfer1::IPluginCreatorV3One* find_creator(const char* name) {
  for (auto* creator : creators) {
    if (std::strcmp(creator->getPluginName(), name) == 0) return creator;
  }
  throw Broken{std::string("there is no creator for ") + name};
}

}  // namespace conformance

// What the plugin library looks for.
CONFORMANCE_EXPORT int32_t getInferLibVersion() noexcept { return infer_version; }

CONFORMANCE_EXPORT const char* conformance_broken() { return broken.c_str(); }

// What was logged since the last call: lines of a severity and a message.
CONFORMANCE_EXPORT const char* conformance_messages() {
  text.swap(messages);
  messages.clear();
  return text.c_str();
}

CONFORMANCE_EXPORT int32_t conformance_header_version() { return NV_TENSORRT_VERSION; }

// Loads a library as TensorRT `version`; the number of creators. `with_finder` 0: without setLoggerFinder.
CONFORMANCE_EXPORT int32_t conformance_load(const char* path, int32_t version, int32_t with_finder) {
  return conformance::checked(-1, [&] {
    infer_version = version;
    creators.clear();
    void* const library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    require(library != nullptr, library == nullptr ? dlerror() : "");
    const auto set_finder = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    const auto get_creators =
        reinterpret_cast<nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    require(set_finder != nullptr && get_creators != nullptr, "setLoggerFinder and getCreators must be exported");
    set_finder(with_finder != 0 ? &logger_finder : nullptr);
    int32_t count = -1;
    nvinfer1::IPluginCreatorInterface* const* const found = get_creators(count);
    require(count >= 0 && (count == 0 || found != nullptr), "getCreators must say how many creators there are");
    for (int32_t i = 0; i < count; ++i) {
      const nvinfer1::InterfaceInfo info = found[i]->getInterfaceInfo();
      require(std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") == 0 && info.major == 1, "every creator is a V3ONE");
      creators.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(found[i]));
    }
    return count;
  });
}

// "name version namespace field:type:length field:type:length".
CONFORMANCE_EXPORT const char* conformance_creator(int32_t index) {
  return conformance::checked(static_cast<const char*>(nullptr), [&] {
    auto* const creator = creators.at(static_cast<size_t>(index));
    text =
        std::string(creator->getPluginName()) + " " + creator->getPluginVersion() + " " + creator->getPluginNamespace();
    const nvinfer1::PluginFieldCollection* const fields = creator->getFieldNames();
    require(fields != nullptr, "getFieldNames must give a collection");
    for (int32_t i = 0; i < fields->nbFields; ++i) {
      const nvinfer1::PluginField& field = fields->fields[i];
      text += std::string(" ") + field.name + ":" + std::to_string(static_cast<int32_t>(field.type)) + ":" +
              std::to_string(field.length);
    }
    return text.c_str();
  });
}
