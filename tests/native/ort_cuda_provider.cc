// Plays the part of ONNX Runtime with a CUDA provider against an op library whose CUDA kernels are executed on the
// host. Checks what no session on a CPU can show.
//
//   ort_cuda_provider LIBRARY
#include <dlfcn.h>

#include "ort_fake.h"

namespace {

std::string message_of(OrtStatus* status) {
  CHECK(status != nullptr);
  const std::string message = status->message;
  delete status;
  return message;
}

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) std::fprintf(stderr, "%s\n", text.c_str());
  return text.find(part) != std::string::npos;
}

const OrtCustomOp* find_op(const OrtSessionOptions& options, const std::string& name, const std::string& provider,
                           ONNXTensorElementDataType type) {
  for (const OrtCustomOp* op : options.domains.at(0)->ops) {
    if (op->GetName(op) == name && op->GetExecutionProviderType(op) == provider && op->GetInputType(op, 0) == type) {
      return op;
    }
  }
  return nullptr;
}

// Operators with CUDA kernels on both providers, for the same types; for CUDA, scalars of the 8-bit ones on the host.
void check_registration(const OrtSessionOptions& options) {
  std::map<std::string, int> kinds;
  for (const OrtCustomOp* op : options.domains.at(0)->ops) {
    const std::string name = op->GetName(op), provider = op->GetExecutionProviderType(op);
    kinds[name] += provider == "CUDAExecutionProvider" ? 1 : -1;
    CHECK(provider == "CUDAExecutionProvider" || provider == "CPUExecutionProvider");
    CHECK(op->version == 21);
    for (size_t index = 0; index < op->GetInputTypeCount(op); ++index) {
      const bool scalar = index == 1 || index == 2 || index == 4 || index == 6 || index == 7;
      const bool on_host = provider == "CUDAExecutionProvider" && name == "QLinearManhattanKervolution" && scalar;
      CHECK(op->GetInputMemoryType(op, index) == (on_host ? OrtMemTypeCPUInput : OrtMemTypeDefault));
    }
  }
  for (const char* name :
       {"PolynomialKervolution", "GaussianKervolution", "SigmoidKervolution", "EuclideanKervolution",
        "ManhattanKervolution", "ChebyshevKervolution", "QLinearManhattanKervolution", "DeconvWhitening"}) {
    CHECK(kinds.count(name) == 1 && kinds[name] == 0);
  }
}

OrtValue tensor(std::vector<int64_t> dims, const OrtMemoryInfo* memory) {
  size_t size = 1;
  for (const int64_t dim : dims) size *= static_cast<size_t>(dim);
  OrtValue value{{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, std::move(dims)}, std::vector<float>(size), memory};
  for (size_t index = 0; index < size; ++index) value.data[index] = std::sin(static_cast<float>(index + size));
  return value;
}

// -sum |x - w| over windows of 3 x 2, without padding.
void check_result(const OrtValue& x, const OrtValue& w, const OrtValue& y) {
  const int64_t channels = x.info.dims[1], height = x.info.dims[2], width = x.info.dims[3], filters = w.info.dims[0];
  CHECK((y.info.dims == std::vector<int64_t>{x.info.dims[0], filters, height - 2, width - 1}));
  size_t place = 0;
  for (int64_t n = 0; n < x.info.dims[0]; ++n) {
    for (int64_t m = 0; m < filters; ++m) {
      for (int64_t row = 0; row < height - 2; ++row) {
        for (int64_t column = 0; column < width - 1; ++column) {
          double sum = 0;
          for (int64_t tap = 0; tap < channels * 6; ++tap) {
            const int64_t c = tap / 6, i = tap % 6 / 2, j = tap % 2;
            sum += std::fabs(double(x.data[((n * channels + c) * height + row + i) * width + column + j]) -
                             w.data[m * channels * 6 + tap]);
          }
          CHECK(std::fabs(y.data[place++] + sum) < 1e-4 * (1 + sum));
        }
      }
    }
  }
}

struct Kernel {
  const OrtCustomOp* op;
  void* object = nullptr;
  OrtStatus* create(const OrtKernelInfo& info) { return op->CreateKernelV2(op, &api, &info, &object); }
  OrtStatus* run(OrtKernelContext* context) const { return op->KernelComputeV2(object, context); }
  ~Kernel() {
    if (object != nullptr) op->KernelDestroy(object);
  }
};

void check_kernel(const OrtCustomOp* op) {
  OrtValue x = tensor({2, 5, 9, 7}, &device_memory), w = tensor({6, 5, 3, 2}, &device_memory);
  OrtKernelInfo info;
  info.ints["kernel_shape"] = {3, 2};
  OrtKernelContext context{{&x, &w}, {}};

  {  // W is an initialiser on the device: packed there, at once, and copied nowhere.
    info.constants[1] = &w;
    Kernel kernel{op};
    CHECK(kernel.create(info) == nullptr);
    CHECK(arena.plain == 1 && arena.scratch == 0 && arena.live.size() == 1);
    for (int run = 0; run < 2; ++run) {
      CHECK(kernel.run(&context) == nullptr);
      check_result(x, w, context.output);
      CHECK(arena.plain == 1);  // with a stream, memory of a run is asked for with the stream
      CHECK(arena.live.size() == 1);
    }
    // No room in a run: an error, and the session goes on. Where the workspace is empty none is asked for.
    const int before = arena.scratch;
    for (const Failure failure : {Failure::kNull, Failure::kException}) {
      arena.failure = failure;
      OrtStatus* status = kernel.run(&context);
      arena.failure = Failure::kNone;
      if (arena.scratch == before) {
        CHECK(status == nullptr);
      } else {
        CHECK(contains(message_of(status), "ManhattanKervolution 'node': out of device memory: no "));
      }
      CHECK(kernel.run(&context) == nullptr);
      check_result(x, w, context.output);
    }
  }
  CHECK(arena.live.empty());

  {  // On the host: copied first.
    OrtValue on_host = tensor({6, 5, 3, 2}, &host_memory);
    info.constants[1] = &on_host;
    arena.plain = 0;
    Kernel kernel{op};
    CHECK(kernel.create(info) == nullptr);
    CHECK(arena.plain == 2 && arena.live.size() == 1);
    CHECK(kernel.run(&context) == nullptr);
    check_result(x, w, context.output);
  }
  CHECK(arena.live.empty());

  // No room for packed filters.
  info.constants[1] = &w;
  for (const Failure failure : {Failure::kNull, Failure::kException}) {
    Kernel kernel{op};
    arena.failure = failure;
    OrtStatus* status = kernel.create(info);
    arena.failure = Failure::kNone;
    CHECK(contains(message_of(status), "ManhattanKervolution 'node': out of device memory: no "));
    CHECK(kernel.object == nullptr && arena.live.empty());
  }

  {  // W is computed: packed in every run, in memory of the stream.
    info.constants.clear();
    arena.plain = arena.scratch = 0;
    Kernel kernel{op};
    CHECK(kernel.create(info) == nullptr);
    for (int run = 0; run < 2; ++run) {
      w.data[7] += 1.0f;
      CHECK(kernel.run(&context) == nullptr);
      check_result(x, w, context.output);
    }
    CHECK(arena.plain == 0 && arena.scratch >= 2);
  }
  CHECK(arena.live.empty());

  {  // Shapes that do not fit.
    OrtValue wrong = tensor({2, 4, 9, 7}, &device_memory);
    OrtKernelContext misfit{{&wrong, &w}, {}};
    Kernel kernel{op};
    CHECK(kernel.create(info) == nullptr);
    CHECK(
        contains(message_of(kernel.run(&misfit)), "ManhattanKervolution 'node': W has 5 channels per group, X has 4"));
  }
}

}  // namespace

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  CHECK(library != nullptr);
  const auto register_ops =
      reinterpret_cast<OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*)>(dlsym(library, "RegisterCustomOps"));
  CHECK(register_ops != nullptr);
  const OrtApiBase base = {[](uint32_t version) noexcept { return version <= 21 ? &api : nullptr; },
                           []() noexcept { return "1.21.0"; }};
  OrtSessionOptions options, again, permitted, wrong;
  permitted.entries["edgeconv.tf32"] = "1";
  wrong.entries["edgeconv.tf32"] = "maybe";
  CHECK(register_ops(&options, &base) == nullptr);
  CHECK(register_ops(&again, &base) == nullptr);
  CHECK(register_ops(&permitted, &base) == nullptr);
  CHECK(contains(message_of(register_ops(&wrong, &base)), "edgeconv.tf32 is 'maybe': it must be 0 or 1"));
  CHECK(options.domains == again.domains);  // one for all sessions that ask for the same
  CHECK(options.domains != permitted.domains);
  check_registration(options);
  check_registration(permitted);
  for (const OrtSessionOptions* session : {&options, &permitted}) {
    arena.plain = arena.scratch = 0;
    const OrtCustomOp* op =
        find_op(*session, "ManhattanKervolution", "CUDAExecutionProvider", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    CHECK(op != nullptr);
    check_kernel(op);
  }
  std::puts("conforms");
}
