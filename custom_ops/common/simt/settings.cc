#include "common/simt/settings.h"

#include <stdlib.h>

#include <mutex>

namespace simt {
namespace {

constexpr int kKib = 1024;
constexpr Device kDevices[] = {
    {87, "Orin (host execution)", 16, 164 * kKib, 163 * kKib, 1536},
    {90, "H200 (host execution)", 132, 228 * kKib, 227 * kKib, 2048},
    {110, "Thor (host execution)", 20, 228 * kKib, 227 * kKib, 1536},
};

const Device* find_device(int64_t compute_capability) {
  for (const Device& device : kDevices) {
    if (device.compute_capability == compute_capability) return &device;
  }
  return nullptr;
}

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* const text = getenv(name);
  return text != nullptr && *text != '\0' ? strtoll(text, nullptr, 0) : otherwise;
}

struct Shared {
  std::mutex mutex;
  Settings values;

  Shared() {
    const Device* const device = find_device(from_environment("EDGECONV_SIMT_DEVICE", 87));
    const int64_t threads = from_environment("EDGECONV_SIMT_THREADS", 2);
    values.seed = static_cast<uint64_t>(from_environment("EDGECONV_SIMT_SEED", 1));
    values.threads = threads > 1 ? static_cast<int>(threads) : 1;
    values.strict = from_environment("EDGECONV_SIMT_STRICT", 1) != 0;
    values.device = device != nullptr ? device : &kDevices[0];
  }
};

Shared& shared() {
  static Shared instance;
  return instance;
}

template <typename Change>
void change(const Change& apply) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  apply(shared().values);
}

}  // namespace

Settings settings() {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  return shared().values;
}

}  // namespace simt

void edgeconv_simt_set_seed(uint64_t seed) {
  simt::change([seed](simt::Settings& values) { values.seed = seed; });
}

void edgeconv_simt_set_threads(int threads) {
  simt::change([threads](simt::Settings& values) { values.threads = threads > 1 ? threads : 1; });
}

void edgeconv_simt_set_strict(int strict) {
  simt::change([strict](simt::Settings& values) { values.strict = strict != 0; });
}

int edgeconv_simt_set_device(int compute_capability) {
  const simt::Device* const device = simt::find_device(compute_capability);
  if (device == nullptr) return 1;
  simt::change([device](simt::Settings& values) { values.device = device; });
  return 0;
}
