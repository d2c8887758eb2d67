// Registration of every operator with ONNX Runtime, under the domain "edgeconv".
#include "common/ort_library.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "common/cpu_features.h"

namespace {

using edgeconv::CustomOps;
using edgeconv::Owner;
using edgeconv::Runtime;

// FOR TESTS: in a host-executed build EDGECONV_SIMT_ORT=1 puts the CUDA kernels and their glue in the CPU's place, so
// that a session on the CPU runs them.
bool cuda_on_host() {
#ifdef EDGECONV_SIMT
  const char* value = std::getenv("EDGECONV_SIMT_ORT");
  return value != nullptr && std::strcmp(value, "1") == 0;
#else
  return false;
#endif
}

// One line an operator family.
void append_all(const Runtime& runtime, CustomOps& ops) {
  edgeconv::append_kervolution(runtime, ops);
  edgeconv::append_qlinear_kervolution(runtime, ops);
  edgeconv::append_deconv_whitening(runtime, ops);
  edgeconv::append_qlinear_mobile(runtime, ops);
  edgeconv::append_qlinear_pool(runtime, ops);
}

// The domain and what it refers to; both must outlive every session. One for each runtime in the process, and for what
// its sessions ask for.
struct Registration {
  Runtime runtime;
  CustomOps ops;
  Owner<OrtCustomOpDomain> domain;
};

OrtCustomOpDomain* find_or_create_domain(const Runtime& runtime) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<Registration>> registrations;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& registration : registrations) {
    const Runtime& other = registration->runtime;
    if (other.api == runtime.api && other.tf32 == runtime.tf32 && other.cuda_on_host == runtime.cuda_on_host) {
      return registration->domain.get();
    }
  }
  CustomOps ops;
  append_all(runtime, ops);
  OrtCustomOpDomain* domain = nullptr;
  edgeconv::check(runtime.api, runtime.api->CreateCustomOpDomain("edgeconv", &domain));
  Owner<OrtCustomOpDomain> owner(domain, {runtime.api->ReleaseCustomOpDomain});
  for (const auto& op : ops) edgeconv::check(runtime.api, runtime.api->CustomOpDomain_Add(domain, op.get()));
  registrations.push_back(std::make_unique<Registration>(Registration{runtime, std::move(ops), std::move(owner)}));
  return domain;
}

}  // namespace

// ONNX Runtime calls this for SessionOptions.register_custom_ops_library. What the session's configuration entries say
// (kTf32Entry) must be set before.
//
// Where the runtime is too old, or is not one, the returned status says so. A status can only be made through the
// runtime's own API: if there is none at all (GetApi returns null), the result is null and nothing is registered; a
// model that needs the operators then fails to load with the runtime's message, or runs their function bodies.
extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  EdgeconvStatus status = {};
  Runtime runtime = edgeconv::negotiate(base, &status);
  if (runtime.version == 0) {
    return runtime.api != nullptr ? runtime.api->CreateStatus(ORT_FAIL, status.message) : nullptr;
  }
  return edgeconv::guarded(runtime.api, "edgeconv: ", [&] {
    int isa = 0;
    edgeconv::check(edgeconv_select_isa(&isa, &status), status);
    runtime.tf32 = edgeconv::read_tf32(runtime.api, options);
    runtime.cuda_on_host = cuda_on_host();
    edgeconv::check(runtime.api, runtime.api->AddCustomOpDomain(options, find_or_create_domain(runtime)));
  });
}
