// Runs models in ONNX Runtime and keeps their outputs: the part of the tests that lives on the other architecture.
//
//   runner LIST [LIBRARY]
//
// LIST names one directory a line, each with a model.onnx whose inputs have static shapes, and for every input a file
// <name>.bin with its elements. Every output is written as <name>.out beside them. LIBRARY is an op library to register.
// Prints "isa <name>" for the instruction set that the library has chosen, then a line for each directory: "ok", or
// "error" and the message. Status 1 if there was an error.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const OrtApi* ort = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// One of ONNX Runtime's objects, released at the end of its scope.
template <typename T>
struct Owned {
  explicit Owned(void(ORT_API_CALL* release_function)(T*)) : release(release_function) {}
  Owned(const Owned&) = delete;
  ~Owned() { release(object); }
  T* object = nullptr;
  void(ORT_API_CALL* release)(T*);
};

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

size_t element_bytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return 1;
    default: throw std::runtime_error("element type " + std::to_string(type) + " is not known to the runner");
  }
}

struct Shape {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> dims;

  explicit Shape(const OrtTensorTypeAndShapeInfo* info) {
    size_t rank = 0;
    check(ort->GetTensorElementType(info, &type));
    check(ort->GetDimensionsCount(info, &rank));
    dims.resize(rank);
    check(ort->GetDimensions(info, dims.data(), rank));
  }
  size_t bytes() const {
    size_t count = element_bytes(type);
    for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
    return count;
  }
};

std::vector<std::string> names_of(const OrtSession* session, OrtAllocator* allocator, bool inputs) {
  size_t count = 0;
  check(inputs ? ort->SessionGetInputCount(session, &count) : ort->SessionGetOutputCount(session, &count));
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(inputs ? ort->SessionGetInputName(session, i, allocator, &name)
                 : ort->SessionGetOutputName(session, i, allocator, &name));
    names.emplace_back(name);
    check(ort->AllocatorFree(allocator, name));
  }
  return names;
}

void run_model(const OrtEnv* env, const OrtSessionOptions* options, const std::string& directory) {
  Owned<OrtSession> session(ort->ReleaseSession);
  check(ort->CreateSession(env, (directory + "/model.onnx").c_str(), options, &session.object));
  OrtAllocator* allocator = nullptr;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  const std::vector<std::string> inputs = names_of(session.object, allocator, true);
  const std::vector<std::string> outputs = names_of(session.object, allocator, false);

  std::vector<OrtValue*> values;  // inputs, then outputs
  struct Release {
    std::vector<OrtValue*>& all;
    ~Release() {
      for (OrtValue* value : all) ort->ReleaseValue(value);
    }
  } release{values};
  std::vector<const char*> names;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Owned<OrtTypeInfo> type(ort->ReleaseTypeInfo);
    check(ort->SessionGetInputTypeInfo(session.object, i, &type.object));
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    check(ort->CastTypeInfoToTensorInfo(type.object, &info));
    const Shape shape(info);
    const std::vector<char> data = read_file(directory + "/" + inputs[i] + ".bin");
    if (data.size() != shape.bytes()) throw std::runtime_error(inputs[i] + ".bin does not have the size of the input");
    OrtValue* value = nullptr;
    check(ort->CreateTensorAsOrtValue(allocator, shape.dims.data(), shape.dims.size(), shape.type, &value));
    values.push_back(value);
    void* to = nullptr;
    check(ort->GetTensorMutableData(value, &to));
    std::copy(data.begin(), data.end(), static_cast<char*>(to));
    names.push_back(inputs[i].c_str());
  }
  values.resize(inputs.size() + outputs.size(), nullptr);
  for (const std::string& name : outputs) names.push_back(name.c_str());
  check(ort->Run(session.object, nullptr, names.data(), values.data(), inputs.size(), names.data() + inputs.size(),
                 outputs.size(), values.data() + inputs.size()));
  for (size_t i = 0; i < outputs.size(); ++i) {
    OrtValue* const value = values[inputs.size() + i];
    Owned<OrtTensorTypeAndShapeInfo> info(ort->ReleaseTensorTypeAndShapeInfo);
    check(ort->GetTensorTypeAndShape(value, &info.object));
    void* data = nullptr;
    check(ort->GetTensorMutableData(value, &data));
    std::ofstream file(directory + "/" + outputs[i] + ".out", std::ios::binary);
    file.write(static_cast<const char*>(data), static_cast<std::streamsize>(Shape(info.object).bytes()));
    if (!file.flush()) throw std::runtime_error("cannot write " + outputs[i] + ".out");
  }
}

// What the library's kernels will use, told by the library itself.
void print_instruction_set(const char* library) {
  struct {
    int code;
    char message[508];
  } status = {};
  void* const handle = dlopen(library, RTLD_NOW);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  const auto select = reinterpret_cast<int (*)(int*, void*)>(dlsym(handle, "edgeconv_select_isa"));
  const auto name = reinterpret_cast<const char* (*)(int)>(dlsym(handle, "edgeconv_isa_name"));
  if (select == nullptr || name == nullptr) throw std::runtime_error("the library does not tell its instruction set");
  int isa = 0;
  if (select(&isa, &status) != 0) throw std::runtime_error(status.message);
  std::printf("isa %s\n", name(isa));
}

int run(const char* list, const char* library) {
  ort = OrtGetApiBase()->GetApi(21);
  if (ort == nullptr) throw std::runtime_error("ONNX Runtime is older than 1.21");
  Owned<OrtEnv> env(ort->ReleaseEnv);
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "runner", &env.object));
  Owned<OrtSessionOptions> options(ort->ReleaseSessionOptions);
  check(ort->CreateSessionOptions(&options.object));
  check(ort->SetIntraOpNumThreads(options.object, 2));
  // Emulated threads that wait for work in a loop would take the time of those that have it.
  check(ort->AddSessionConfigEntry(options.object, "session.intra_op.allow_spinning", "0"));
  if (library != nullptr) {
    print_instruction_set(library);
    check(ort->RegisterCustomOpsLibrary_V2(options.object, library));
  }
  std::ifstream directories(list);
  if (!directories) throw std::runtime_error(std::string("cannot read ") + list);
  int result = 0;
  for (std::string directory; std::getline(directories, directory);) {
    try {
      run_model(env.object, options.object, directory);
      std::printf("ok\n");
    } catch (const std::exception& error) {
      std::string message = error.what();
      for (char& character : message) character = character == '\n' ? ' ' : character;
      std::printf("error %s\n", message.c_str());
      result = 1;
    }
  }
  return result;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2 && count != 3) {
    std::fprintf(stderr, "usage: %s LIST [LIBRARY]\n", arguments[0]);
    return 2;
  }
  try {
    return run(arguments[1], count == 3 ? arguments[2] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "runner: %s\n", error.what());
    return 2;
  }
}
