// Registration of every operator with ONNX Runtime, under the domain "edgeconv".
#include "common/ort_library.h"

#include <mutex>

#include "common/cpu_features.h"

namespace {

using edgeconv::CustomOps;
using edgeconv::Owner;
using edgeconv::Runtime;

// One line an operator family.
void append_all(const Runtime& runtime, CustomOps& ops) {
  edgeconv::append_kervolution(runtime, ops);
  edgeconv::append_qlinear_kervolution(runtime, ops);
  edgeconv::append_deconv_whitening(runtime, ops);
}

// The domain and what it refers to; both must outlive every session. One for each runtime in the process.
struct Registration {
  const OrtApi* api;
  CustomOps ops;
  Owner<OrtCustomOpDomain> domain;
};

OrtCustomOpDomain* find_or_create_domain(const Runtime& runtime) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<Registration>> registrations;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& registration : registrations) {
    if (registration->api == runtime.api) return registration->domain.get();
  }
  CustomOps ops;
  append_all(runtime, ops);
  OrtCustomOpDomain* domain = nullptr;
  edgeconv::check(runtime.api, runtime.api->CreateCustomOpDomain("edgeconv", &domain));
  Owner<OrtCustomOpDomain> owner(domain, {runtime.api->ReleaseCustomOpDomain});
  for (const auto& op : ops) edgeconv::check(runtime.api, runtime.api->CustomOpDomain_Add(domain, op.get()));
  registrations.push_back(std::make_unique<Registration>(Registration{runtime.api, std::move(ops), std::move(owner)}));
  return domain;
}

}  // namespace

// ONNX Runtime calls this for SessionOptions.register_custom_ops_library.
//
// Where the runtime is too old, or is not one, the returned status says so. A status can only be made through the
// runtime's own API: if there is none at all (GetApi returns null), the result is null and nothing is registered; a
// model that needs the operators then fails to load with the runtime's message, or runs their function bodies.
extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  EdgeconvStatus status = {};
  const Runtime runtime = edgeconv::negotiate(base, &status);
  if (runtime.version == 0) {
    return runtime.api != nullptr ? runtime.api->CreateStatus(ORT_FAIL, status.message) : nullptr;
  }
  return edgeconv::guarded(runtime.api, "edgeconv: ", [&] {
    int isa = 0;
    edgeconv::check(edgeconv_select_isa(&isa, &status), status);
    edgeconv::check(runtime.api, runtime.api->AddCustomOpDomain(options, find_or_create_domain(runtime)));
  });
}
