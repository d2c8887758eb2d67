// ONNX Runtime's C API, as the glue of every operator uses it: negotiation of the version, owners for its objects,
// errors that name the node, and the shared attributes.
//
// Compiled against API 21 headers; the runtime is asked for the older of its own version and 21.
#ifndef EDGECONV_COMMON_ORT_API_H_
#define EDGECONV_COMMON_ORT_API_H_

#define ORT_API_MANUAL_INIT
#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "common/conv_shape.h"
#include "common/status.h"

namespace edgeconv {

constexpr uint32_t kNewestApi = 21;
constexpr uint32_t kOldestApi = 18;  // in 1.17 a float32 and a float16 form of one operator crash type inference
static_assert(ORT_API_VERSION >= kNewestApi, "headers of ONNX Runtime 1.21 or later are needed");

struct Runtime {
  const OrtApi* api = nullptr;  // of `version`; of an older version, good for CreateStatus only, when that is too old
  uint32_t version = 0;         // of the API; 0: not usable
  long release = 0;             // 23 for ONNX Runtime 1.23.2
  bool tf32 = false;            // of a session: CUDA kernels may compute products in TF32
  bool cuda_on_host = false;    // host-executed builds: CUDA kernels take the place of those for the CPU
};

// The runtime's API; `status` says why it cannot be used, in which case version is 0 and api may be null.
Runtime negotiate(const OrtApiBase* base, EdgeconvStatus* status);

// Throws Error on failure; ownership of `status` is taken.
void check(const OrtApi* api, OrtStatus* status);

struct Error {
  OrtErrorCode code;
  std::string message;
};

// The session's permission to compute in TF32, its configuration entry kTf32Entry: "1" or "0"; absent, it is "0".
constexpr const char* kTf32Entry = "edgeconv.tf32";
bool read_tf32(const OrtApi* api, const OrtSessionOptions* options);

// Runs `body` and turns whatever it throws into a status that begins with `prefix`: no exception leaves a C function.
template <typename Body>
OrtStatus* guarded(const OrtApi* api, const std::string& prefix, Body&& body) noexcept {
  try {
    try {
      body();
      return nullptr;
    } catch (const Error& error) {
      return api->CreateStatus(error.code, (prefix + error.message).c_str());
    } catch (const std::bad_alloc&) {
      return api->CreateStatus(ORT_FAIL, (prefix + "out of memory").c_str());
    }
  } catch (...) {
    return api->CreateStatus(ORT_FAIL, "edgeconv: unexpected failure");
  }
}

// Throws Error unless `code` is EDGECONV_OK.
void check(int code, const EdgeconvStatus& status);

// Deleter for objects of the C API: Owner<OrtTensorTypeAndShapeInfo>(pointer, {api->ReleaseTensorTypeAndShapeInfo}).
template <typename T>
struct Release {
  void(ORT_API_CALL* release)(T*);
  void operator()(T* object) const { release(object); }
};
template <typename T>
using Owner = std::unique_ptr<T, Release<T>>;

// Memory from ONNX Runtime's allocator.
class Buffer {
 public:
  Buffer() = default;
  Buffer(OrtAllocator* allocator, size_t bytes);
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  void* get() const { return data_; }

  // Takes over `data`, which came from `allocator`.
  static Buffer adopt(OrtAllocator* allocator, void* data);

 private:
  void reset();
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

struct Tensor {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> dims;
  const void* data = nullptr;  // null: the optional input is absent

  int64_t size() const;
};

Tensor read_tensor(const OrtApi* api, const OrtValue* value);

std::string node_name(const OrtApi* api, const OrtKernelInfo* info);
int64_t read_int(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t absent);
float read_float(const OrtApi* api, const OrtKernelInfo* info, const char* name, float absent);
std::string read_string(const OrtApi* api, const OrtKernelInfo* info, const char* name, const char* absent);
// Leaves the values as they are where the attribute is absent.
void read_ints(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* values, size_t count);
EdgeconvConvAttributes read_conv_attributes(const OrtApi* api, const OrtKernelInfo* info);

// During shape inference: the `count` values of an attribute of `type` (ORT_OP_ATTR_INT or _INTS); absent, they stay.
void infer_ints(const OrtApi* api, OrtShapeInferContext* context, const char* name, OrtOpAttrType type, int64_t* values,
                size_t count);

// Output 0 of a convolution-like operator with inputs X (the first) and W: type (that of input `type_index`) and shape,
// symbolic dimensions included. Leaves the output as it is where the inputs' ranks are unknown or do not fit; the
// kernel reports that with more detail. Unknown sizes get a symbolic name that is used once: ONNX Runtime takes a
// nameless one for the size -1.
//
// Where W does not have the result's filters, input `filters_index` has. A convolution before that of W has its weights
// in input `expand_index`. Attributes x_perm and y_perm, if the operator has them, bring X to and Y from this order of
// axes.
void infer_conv_output(const OrtApi* api, OrtShapeInferContext* context, size_t w_index = 1, size_t type_index = 0,
                       size_t filters_index = 0, size_t expand_index = 0);

// Output 0 of an operator that gives one value, (N, C, 1, 1), for each channel of X, its first input; x_perm as above.
void infer_pool_output(const OrtApi* api, OrtShapeInferContext* context);

std::string to_text(const std::vector<int64_t>& dims);

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_API_H_
