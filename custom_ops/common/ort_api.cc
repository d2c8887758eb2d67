#include "common/ort_api.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace edgeconv {
namespace {

// "1.23.2" -> 23; -1 for anything that is not a 1.x version.
long minor_version(const char* text) {
  if (text == nullptr || std::strncmp(text, "1.", 2) != 0) return -1;
  char* end = nullptr;
  const long minor = std::strtol(text + 2, &end, 10);
  return end == text + 2 || minor < 0 ? -1 : minor;
}

struct InferredShape {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> dims;  // -1: unknown or symbolic
  std::vector<std::string> names;
};

InferredShape read_shape(const OrtApi* api, OrtShapeInferContext* context, size_t index) {
  InferredShape shape;
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  check(api, api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  check(api, api->GetTensorElementType(info, &shape.type));
  size_t rank = 0;
  check(api, api->GetDimensionsCount(info, &rank));
  shape.dims.resize(rank);
  check(api, api->GetDimensions(info, shape.dims.data(), rank));
  std::vector<const char*> names(rank, nullptr);
  check(api, api->GetSymbolicDimensions(info, names.data(), rank));
  for (const char* name : names) shape.names.emplace_back(name != nullptr ? name : "");
  return shape;
}

// Puts axis order[i] at i; anything that is no permutation leaves it to the kernel to complain.
void permute(const int64_t* order, std::vector<int64_t>* dims, std::vector<std::string>* names) {
  const std::vector<int64_t> old_dims = *dims;
  const std::vector<std::string> old_names = *names;
  for (size_t i = 0; i < 4; ++i) {
    if (order[i] < 0 || order[i] > 3) continue;
    (*dims)[i] = old_dims[static_cast<size_t>(order[i])];
    (*names)[i] = old_names[static_cast<size_t>(order[i])];
  }
}

void set_output_shape(const OrtApi* api, OrtShapeInferContext* context, ONNXTensorElementDataType type,
                      const std::vector<int64_t>& dims, std::vector<std::string> names) {
  static std::atomic<unsigned> unknown_sizes{0};
  std::vector<const char*> name_pointers;
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    if (dims[axis] < 0 && names[axis].empty()) names[axis] = "edgeconv_size_" + std::to_string(++unknown_sizes);
    name_pointers.push_back(names[axis].c_str());
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->CreateTensorTypeAndShapeInfo(&info));
  const Owner<OrtTensorTypeAndShapeInfo> owner(info, {api->ReleaseTensorTypeAndShapeInfo});
  check(api, api->SetTensorElementType(info, type));
  check(api, api->SetDimensions(info, dims.data(), dims.size()));
  check(api, api->SetSymbolicDimensions(info, name_pointers.data(), name_pointers.size()));
  check(api, api->ShapeInferContext_SetOutputTypeShape(context, 0, info));
}

// The shape behind a first convolution, whose attributes are expand_strides and expand_pads.
void expand(const OrtApi* api, OrtShapeInferContext* context, const InferredShape& w, InferredShape* x) {
  int64_t strides[2] = {1, 1}, pads[4] = {0, 0, 0, 0};
  infer_ints(api, context, "expand_strides", ORT_OP_ATTR_INTS, strides, 2);
  infer_ints(api, context, "expand_pads", ORT_OP_ATTR_INTS, pads, 4);
  for (size_t axis = 0; axis < 2; ++axis) {
    int64_t& size = x->dims[2 + axis];
    const int64_t kernel = w.dims.size() == 4 ? w.dims[2 + axis] : -1, both = pads[axis] + pads[2 + axis];
    if (kernel == 1 && strides[axis] == 1 && both == 0) continue;
    x->names[2 + axis].clear();
    size = size < 0 || kernel < 1 || strides[axis] < 1
               ? -1
               : edgeconv_conv_output_size(size, kernel, both, strides[axis], 1);
  }
}

}  // namespace

void read_ints(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* values, size_t count) {
  size_t stated = 0;
  // The first call asks for the size; it fails where the attribute is absent, and the default stays.
  if (OrtStatus* status = api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &stated)) {
    api->ReleaseStatus(status);
    return;
  }
  if (stated != count) {
    throw Error{ORT_INVALID_ARGUMENT,
                std::string(name) + " has " + std::to_string(stated) + " values: expected " + std::to_string(count)};
  }
  check(api, api->KernelInfoGetAttributeArray_int64(info, name, values, &stated));
}

Runtime negotiate(const OrtApiBase* base, EdgeconvStatus* status) {
  Runtime runtime;
  if (base == nullptr || base->GetApi == nullptr || base->GetVersionString == nullptr) {
    edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT,
                        "edgeconv: RegisterCustomOps was called without an OrtApiBase");
    return runtime;
  }
  const char* text = base->GetVersionString();
  const long minor = minor_version(text);
  if (minor < static_cast<long>(kOldestApi)) {
    edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                        "edgeconv: its operators need ONNX Runtime 1.%u or later, and this is version '%.32s'",
                        kOldestApi, text != nullptr ? text : "unknown");
    // Every version can make a status: its functions are the first of the table and never moved.
    runtime.api = base->GetApi(1);
    return runtime;
  }
  const uint32_t version = static_cast<uint32_t>(std::min<long>(minor, kNewestApi));
  runtime.api = base->GetApi(version);
  if (runtime.api == nullptr) {
    edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                        "edgeconv: ONNX Runtime '%.32s' does not offer version %u of its C API", text, version);
    return runtime;
  }
  runtime.version = version;
  runtime.release = minor;
  status->code = EDGECONV_OK;
  return runtime;
}

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  const Owner<OrtStatus> owner(status, {api->ReleaseStatus});
  throw Error{api->GetErrorCode(status), api->GetErrorMessage(status)};
}

bool read_tf32(const OrtApi* api, const OrtSessionOptions* options) {
  int stated = 0;
  check(api, api->HasSessionConfigEntry(options, kTf32Entry, &stated));
  if (stated == 0) return false;
  size_t size = 0;
  check(api, api->GetSessionConfigEntry(options, kTf32Entry, nullptr, &size));
  std::string value(size, '\0');
  check(api, api->GetSessionConfigEntry(options, kTf32Entry, value.data(), &size));
  value = value.c_str();
  if (value != "0" && value != "1") {
    throw Error{ORT_INVALID_ARGUMENT,
                std::string("session configuration entry ") + kTf32Entry + " is '" + value + "': it must be 0 or 1"};
  }
  return value == "1";
}

void check(int code, const EdgeconvStatus& status) {
  if (code == EDGECONV_OK) return;
  throw Error{code == EDGECONV_INVALID_ARGUMENT ? ORT_INVALID_ARGUMENT : ORT_FAIL, status.message};
}

Buffer::Buffer(OrtAllocator* allocator, size_t bytes) : allocator_(allocator) {
  data_ = allocator->Alloc(allocator, std::max<size_t>(bytes, 1));
  if (data_ == nullptr) throw std::bad_alloc();
}

Buffer Buffer::adopt(OrtAllocator* allocator, void* data) {
  Buffer buffer;
  buffer.allocator_ = allocator;
  buffer.data_ = data;
  return buffer;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    reset();
    allocator_ = std::exchange(other.allocator_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
  }
  return *this;
}

void Buffer::reset() {
  if (data_ != nullptr) allocator_->Free(allocator_, data_);
  data_ = nullptr;
}

int64_t Tensor::size() const {
  int64_t size = 1;
  for (int64_t dim : dims) size *= dim;
  return size;
}

Tensor read_tensor(const OrtApi* api, const OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->GetTensorTypeAndShape(value, &info));
  const Owner<OrtTensorTypeAndShapeInfo> owner(info, {api->ReleaseTensorTypeAndShapeInfo});
  check(api, api->GetTensorElementType(info, &tensor.type));
  size_t rank = 0;
  check(api, api->GetDimensionsCount(info, &rank));
  tensor.dims.resize(rank);
  check(api, api->GetDimensions(info, tensor.dims.data(), rank));
  void* data = nullptr;
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  // An empty tensor may have no memory; what is not null is present.
  static const double empty = 0.0;
  tensor.data = data != nullptr ? data : &empty;
  return tensor;
}

std::string node_name(const OrtApi* api, const OrtKernelInfo* info) {
  size_t size = 0;
  check(api, api->KernelInfo_GetNodeName(info, nullptr, &size));
  std::string name(size, '\0');
  check(api, api->KernelInfo_GetNodeName(info, name.data(), &size));
  return name.c_str();
}

int64_t read_int(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t absent) {
  int64_t value = 0;
  OrtStatus* status = api->KernelInfoGetAttribute_int64(info, name, &value);
  if (status == nullptr) return value;
  api->ReleaseStatus(status);
  return absent;
}

float read_float(const OrtApi* api, const OrtKernelInfo* info, const char* name, float absent) {
  float value = 0.0f;
  OrtStatus* status = api->KernelInfoGetAttribute_float(info, name, &value);
  if (status == nullptr) return value;
  api->ReleaseStatus(status);
  return absent;
}

std::string read_string(const OrtApi* api, const OrtKernelInfo* info, const char* name, const char* absent) {
  size_t size = 0;
  // The first call asks for the size; it fails where the attribute is absent.
  if (OrtStatus* status = api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) {
    api->ReleaseStatus(status);
    return absent;
  }
  std::string value(size, '\0');
  check(api, api->KernelInfoGetAttribute_string(info, name, value.data(), &size));
  return value.c_str();
}

EdgeconvConvAttributes read_conv_attributes(const OrtApi* api, const OrtKernelInfo* info) {
  EdgeconvConvAttributes attributes;
  edgeconv_conv_attributes_init(&attributes);
  read_ints(api, info, "kernel_shape", attributes.kernel_shape, 2);
  read_ints(api, info, "strides", attributes.strides, 2);
  read_ints(api, info, "pads", attributes.pads, 4);
  read_ints(api, info, "dilations", attributes.dilations, 2);
  attributes.group = read_int(api, info, "group", 1);
  return attributes;
}

void infer_ints(const OrtApi* api, OrtShapeInferContext* context, const char* name, OrtOpAttrType type, int64_t* values,
                size_t count) {
  const OrtOpAttr* attribute = nullptr;
  size_t bytes = 0;
  OrtStatus* status = api->ShapeInferContext_GetAttribute(context, name, &attribute);
  if (status == nullptr && attribute != nullptr) {
    status = api->ReadOpAttr(attribute, type, values, count * sizeof(int64_t), &bytes);
  }
  if (status != nullptr) api->ReleaseStatus(status);
}

void infer_conv_output(const OrtApi* api, OrtShapeInferContext* context, size_t w_index, size_t type_index,
                       size_t filters_index, size_t expand_index) {
  InferredShape x = read_shape(api, context, 0);
  const InferredShape w = read_shape(api, context, w_index);
  const InferredShape filters = read_shape(api, context, filters_index != 0 ? filters_index : w_index);
  if (x.dims.size() != 4 || w.dims.size() != 4 || filters.dims.size() != 4) return;
  int64_t to_nchw[4] = {0, 1, 2, 3}, to_y[4] = {0, 1, 2, 3};
  infer_ints(api, context, "x_perm", ORT_OP_ATTR_INTS, to_nchw, 4);
  infer_ints(api, context, "y_perm", ORT_OP_ATTR_INTS, to_y, 4);
  permute(to_nchw, &x.dims, &x.names);
  if (expand_index != 0) expand(api, context, read_shape(api, context, expand_index), &x);
  EdgeconvConvAttributes attributes;
  edgeconv_conv_attributes_init(&attributes);
  infer_ints(api, context, "kernel_shape", ORT_OP_ATTR_INTS, attributes.kernel_shape, 2);
  infer_ints(api, context, "strides", ORT_OP_ATTR_INTS, attributes.strides, 2);
  infer_ints(api, context, "pads", ORT_OP_ATTR_INTS, attributes.pads, 4);
  infer_ints(api, context, "dilations", ORT_OP_ATTR_INTS, attributes.dilations, 2);

  std::vector<int64_t> dims = {x.dims[0], filters.dims[0], -1, -1};
  std::vector<std::string> names = {x.names[0], filters.names[0], "", ""};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t size = x.dims[2 + axis];
    const int64_t kernel = attributes.kernel_shape[axis] > 0 ? attributes.kernel_shape[axis] : w.dims[2 + axis];
    const int64_t stride = attributes.strides[axis];
    if (size < 0 || kernel < 1 || stride < 1 || attributes.dilations[axis] < 1) continue;
    dims[2 + axis] = edgeconv_conv_output_size(size, kernel, attributes.pads[axis] + attributes.pads[2 + axis], stride,
                                               attributes.dilations[axis]);
  }
  permute(to_y, &dims, &names);
  set_output_shape(api, context, read_shape(api, context, type_index).type, dims, std::move(names));
}

void infer_pool_output(const OrtApi* api, OrtShapeInferContext* context) {
  InferredShape x = read_shape(api, context, 0);
  if (x.dims.size() != 4) return;
  int64_t to_nchw[4] = {0, 1, 2, 3};
  infer_ints(api, context, "x_perm", ORT_OP_ATTR_INTS, to_nchw, 4);
  permute(to_nchw, &x.dims, &x.names);
  set_output_shape(api, context, x.type, {x.dims[0], x.dims[1], 1, 1}, {x.names[0], x.names[1], "", ""});
}

std::string to_text(const std::vector<int64_t>& dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + ")";
}

}  // namespace edgeconv
