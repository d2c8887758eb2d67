#include "common/trt_log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <mutex>

namespace edgeconv::trt {
namespace {

constexpr int32_t kLeastVersion = 100300;  // in TensorRT's own notation: 10.3.0
constexpr int32_t kMajor = NV_TENSORRT_MAJOR;

struct Runtime {
  int32_t version;  // 0: not known
  int32_t major;
  std::string name;                    // in words
  nvinfer1::ILogger* (*get_logger)();  // of the process, or null
};

// The numbering changed with TensorRT 10, and TensorRT-RTX began with it at 1.
Runtime describe(void* library, const char* path) {
  void* const get_version = dlsym(library, "getInferLibVersion");
  if (get_version == nullptr) return {};
  const int32_t version = reinterpret_cast<int32_t (*)()>(get_version)();
  const int32_t factor = version >= 10000 ? 10000 : 1000;
  const int32_t major = version / factor, minor = version % factor / 100, patch = version % 100;
  std::string name = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
  if (path != nullptr) name += std::string(" (") + path + ")";
  return {version, major, name, reinterpret_cast<nvinfer1::ILogger* (*)()>(dlsym(library, "getLogger"))};
}

// Nothing of TensorRT's is linked, and its library may have been loaded without making its symbols known to others. But
// the finder is an object of a class of TensorRT's: where its table of virtual functions is, TensorRT is.
Runtime find_runtime(const nvinfer1::ILoggerFinder* finder) {
  Dl_info info = {};
  if (finder != nullptr && dladdr(*reinterpret_cast<void* const*>(finder), &info) != 0 && info.dli_fname != nullptr) {
    if (void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD)) {
      const Runtime found = describe(library, info.dli_fname);
      dlclose(library);  // which it was before, too: it stays
      if (found.version != 0) return found;
    }
  }
  return describe(RTLD_DEFAULT, nullptr);
}

#if defined(EDGECONV_SIMT)
// For tests: whether every version may load the library. TensorRT-RTX's parser is as good as TensorRT's, up to the
// layer.
bool any_version = false;
extern "C" __attribute__((visibility("default"))) void edgeconv_trt_set_any_version(int any) { any_version = any != 0; }
#else
constexpr bool any_version = false;
#endif

bool is_supported(const Runtime& runtime) {
  return any_version || runtime.version == 0 || (runtime.major == kMajor && runtime.version >= kLeastVersion);
}

// Of the TensorRT that loaded the library last.
std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};
std::mutex runtime_mutex;
Runtime loading_runtime = {};

std::string nowhere() { return {}; }

void print(const std::string& message) noexcept { std::fprintf(stderr, "edgeconv: %s\n", message.c_str()); }

}  // namespace

void check(int code, const EdgeconvStatus& status) {
  if (code != EDGECONV_OK) throw Error{status.message};
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  guarded(nowhere, 0, [&] {
    const std::lock_guard<std::mutex> lock(runtime_mutex);
    loading_runtime = find_runtime(finder);
    // In TensorRT 11 the finder's and the logger's tables of virtual functions are others than in TensorRT 10:
    // those of another major version may not be called at all.
    const bool same = loading_runtime.version == 0 || loading_runtime.major == kMajor;
    logger_finder = same ? finder : nullptr;
    return 0;
  });
}

bool is_supported_runtime() noexcept {
  return guarded(nowhere, false, [] {
    const std::lock_guard<std::mutex> lock(runtime_mutex);
    if (loading_runtime.version == 0) loading_runtime = find_runtime(nullptr);
    if (is_supported(loading_runtime)) return true;
    if (loading_runtime.version >= 10000 && loading_runtime.major < 10) {
      print("TensorRT-RTX " + loading_runtime.name +
            " has no plugin layers: no plugin is registered. Give it a model whose functions are inlined "
            "(edgeconv export --inline)");
      return false;
    }
    const std::string built_for = kMajor == 10 ? "10 (10.3 or later)" : std::to_string(kMajor);
    print("libedgeconv_trt.so was built for TensorRT " + built_for + ", and TensorRT " + loading_runtime.name +
          " is loading it: no plugin is registered. Build it with the headers of that TensorRT "
          "(TENSORRT_ROOT), or use one that it was built for");
    return false;
  });
}

void log_error(const std::string& message) noexcept {
  try {
    nvinfer1::ILoggerFinder* const finder = logger_finder;
    nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
    // There is none of a context or an engine while a network is made: then that of the process.
    if (finder != nullptr && logger == nullptr) {
      const std::lock_guard<std::mutex> lock(runtime_mutex);
      if (loading_runtime.get_logger != nullptr) logger = loading_runtime.get_logger();
    }
    if (logger != nullptr) return logger->log(nvinfer1::ILogger::Severity::kERROR, ("edgeconv: " + message).c_str());
  } catch (...) {
    // Not even the message could be made.
  }
  print(message);
}

}  // namespace edgeconv::trt
