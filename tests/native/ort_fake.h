// ONNX Runtime with a CUDA provider, played: as much of its C API as the glue of operators calls. Two kinds of memory
// (both the host's), a stream that is not null, and an arena that fails on request.
#ifndef EDGECONV_TESTS_NATIVE_ORT_FAKE_H_
#define EDGECONV_TESTS_NATIVE_ORT_FAKE_H_

#include <onnxruntime_c_api.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};
struct OrtSessionOptions {
  std::map<std::string, std::string> entries;
  std::vector<OrtCustomOpDomain*> domains;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtMemoryInfo {
  OrtMemoryInfoDeviceType device;
};
struct OrtTensorTypeAndShapeInfo {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
};
struct OrtValue {
  OrtTensorTypeAndShapeInfo info;
  std::vector<float> data;
  const OrtMemoryInfo* memory;
};
struct OrtKernelInfo {
  std::map<std::string, std::vector<int64_t>> ints;
  std::map<size_t, OrtValue*> constants;
};
struct OrtKernelContext {
  std::vector<OrtValue*> inputs;
  OrtValue output;
};

namespace {

const OrtMemoryInfo host_memory{OrtMemoryInfoDeviceType_CPU}, device_memory{OrtMemoryInfoDeviceType_GPU};
char stream_tag;

enum class Failure { kNone, kNull, kException };

// The device's arena. `scratch` counts what was asked for with a stream.
struct Arena : OrtAllocator {
  std::set<void*> live;
  int plain = 0, scratch = 0;
  Failure failure = Failure::kNone;

  Arena() : OrtAllocator{} {
    version = ORT_API_VERSION;
    OrtAllocator::Alloc = [](OrtAllocator* self, size_t bytes) {
      ++static_cast<Arena*>(self)->plain;
      return static_cast<Arena*>(self)->take(bytes);
    };
    OrtAllocator::Free = [](OrtAllocator* self, void* data) {
      CHECK(static_cast<Arena*>(self)->live.erase(data) == 1);
      std::free(data);
    };
    OrtAllocator::Info = [](const OrtAllocator*) { return &device_memory; };
  }

  void* take(size_t bytes) {
    CHECK(bytes > 0);
    if (failure == Failure::kException) throw std::runtime_error("the arena has no room");
    if (failure == Failure::kNull) return nullptr;
    void* data = nullptr;
    CHECK(posix_memalign(&data, 256, bytes) == 0);
    live.insert(data);
    return data;
  }
} arena;

OrtStatus* failed(const char* message) { return new OrtStatus{ORT_FAIL, message}; }

template <typename T, typename Value>
OrtStatus* give(T* out, Value&& value) {
  *out = std::forward<Value>(value);
  return nullptr;
}

OrtApi make_api() {
  OrtApi api{};
  api.CreateStatus = [](OrtErrorCode code, const char* message) noexcept { return new OrtStatus{code, message}; };
  api.GetErrorCode = [](const OrtStatus* status) noexcept { return status->code; };
  api.GetErrorMessage = [](const OrtStatus* status) noexcept { return status->message.c_str(); };
  api.ReleaseStatus = [](OrtStatus* status) noexcept { delete status; };
  api.HasSessionConfigEntry = [](const OrtSessionOptions* options, const char* key, int* out) noexcept -> OrtStatus* {
    return give(out, options->entries.count(key) != 0);
  };
  api.GetSessionConfigEntry = [](const OrtSessionOptions* options, const char* key, char* value,
                                 size_t* size) noexcept -> OrtStatus* {
    const std::string& text = options->entries.at(key);
    if (value != nullptr) std::memcpy(value, text.c_str(), *size);
    *size = text.size() + 1;
    return nullptr;
  };
  api.CreateCustomOpDomain = [](const char* name, OrtCustomOpDomain** out) noexcept -> OrtStatus* {
    CHECK(std::string(name) == "edgeconv");
    return give(out, new OrtCustomOpDomain);
  };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain* domain, const OrtCustomOp* op) noexcept -> OrtStatus* {
    domain->ops.push_back(op);
    return nullptr;
  };
  api.AddCustomOpDomain = [](OrtSessionOptions* options, OrtCustomOpDomain* domain) noexcept -> OrtStatus* {
    options->domains.push_back(domain);
    return nullptr;
  };
  api.ReleaseCustomOpDomain = [](OrtCustomOpDomain* domain) noexcept { delete domain; };

  api.KernelInfo_GetNodeName = [](const OrtKernelInfo*, char* name, size_t* size) noexcept -> OrtStatus* {
    if (name != nullptr) std::memcpy(name, "node", 5);
    *size = 5;
    return nullptr;
  };
  api.KernelInfoGetAttributeArray_int64 = [](const OrtKernelInfo* info, const char* name, int64_t* values,
                                             size_t* size) noexcept -> OrtStatus* {
    const auto found = info->ints.find(name);
    if (found == info->ints.end()) return failed("absent");
    if (values != nullptr) std::memcpy(values, found->second.data(), found->second.size() * sizeof(int64_t));
    *size = found->second.size();
    return nullptr;
  };
  api.KernelInfoGetAttribute_int64 = [](const OrtKernelInfo*, const char*, int64_t*) noexcept {
    return failed("absent");
  };
  api.KernelInfoGetAttribute_string = [](const OrtKernelInfo*, const char*, char*, size_t*) noexcept {
    return failed("absent");
  };
  api.KernelInfoGetConstantInput_tensor = [](const OrtKernelInfo* info, size_t index, int* constant,
                                             const OrtValue** out) noexcept -> OrtStatus* {
    const auto found = info->constants.find(index);
    *constant = found != info->constants.end();
    return give(out, *constant ? found->second : nullptr);
  };
  api.KernelInfoGetAllocator = [](const OrtKernelInfo*, OrtMemType type, OrtAllocator** out) noexcept -> OrtStatus* {
    CHECK(type == OrtMemTypeDefault);
    return give(out, &arena);
  };
  api.ReleaseAllocator = [](OrtAllocator*) noexcept {};

  api.GetTensorTypeAndShape = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) noexcept -> OrtStatus* {
    return give(out, new OrtTensorTypeAndShapeInfo(value->info));
  };
  api.ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) noexcept { delete info; };
  api.GetTensorElementType = [](const OrtTensorTypeAndShapeInfo* info,
                                ONNXTensorElementDataType* out) noexcept -> OrtStatus* {
    return give(out, info->type);
  };
  api.GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) noexcept -> OrtStatus* {
    return give(out, info->dims.size());
  };
  api.GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count) noexcept -> OrtStatus* {
    std::memcpy(dims, info->dims.data(), count * sizeof(int64_t));
    return nullptr;
  };
  api.GetTensorMutableData = [](OrtValue* value, void** out) noexcept -> OrtStatus* {
    return give(out, value->data.data());
  };
  api.GetTensorMemoryInfo = [](const OrtValue* value, const OrtMemoryInfo** out) noexcept -> OrtStatus* {
    return give(out, value->memory);
  };
  api.MemoryInfoGetDeviceType = [](const OrtMemoryInfo* info, OrtMemoryInfoDeviceType* out) noexcept {
    *out = info->device;
  };

  api.KernelContext_GetInputCount = [](const OrtKernelContext* context, size_t* out) noexcept -> OrtStatus* {
    return give(out, context->inputs.size());
  };
  api.KernelContext_GetInput = [](const OrtKernelContext* context, size_t index,
                                  const OrtValue** out) noexcept -> OrtStatus* {
    return give(out, context->inputs[index]);
  };
  api.KernelContext_GetOutput = [](OrtKernelContext* context, size_t, const int64_t* dims, size_t rank,
                                   OrtValue** out) noexcept -> OrtStatus* {
    size_t size = 1;
    for (size_t axis = 0; axis < rank; ++axis) size *= static_cast<size_t>(dims[axis]);
    context->output = {
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {dims, dims + rank}}, std::vector<float>(size, NAN), &device_memory};
    return give(out, &context->output);
  };
  api.KernelContext_GetGPUComputeStream = [](const OrtKernelContext*, void** out) noexcept -> OrtStatus* {
    return give(out, &stream_tag);
  };
  // ONNX Runtime's throws as its allocators do.
  api.KernelContext_GetScratchBuffer = reinterpret_cast<decltype(api.KernelContext_GetScratchBuffer)>(
      +[](const OrtKernelContext*, const OrtMemoryInfo* info, size_t bytes, void** out) -> OrtStatus* {
        CHECK(info->device == OrtMemoryInfoDeviceType_GPU);
        ++arena.scratch;
        return give(out, arena.take(bytes));
      });
  return api;
}

const OrtApi api = make_api();

}  // namespace

#endif  // EDGECONV_TESTS_NATIVE_ORT_FAKE_H_
