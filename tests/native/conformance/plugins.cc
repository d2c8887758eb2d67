// A plugin's life: created, cloned, kept in an engine and made anew from it, attached, destroyed.
#include <cstring>

#include "conformance.h"

namespace conformance {
namespace {

template <typename Capability>
Capability& capability(nvinfer1::IPluginV3* plugin, nvinfer1::PluginCapabilityType type, const char* kind) {
  nvinfer1::IPluginCapability* const found = plugin->getCapabilityInterface(type);
  require(found != nullptr, std::string("there is no capability ") + kind);
  require(std::strcmp(found->getInterfaceInfo().kind, kind) == 0, std::string("the capability is not ") + kind);
  return *static_cast<Capability*>(found);
}

}  // namespace

Handle::Handle(nvinfer1::IPluginV3* plugin_) : plugin(plugin_) { outputs = build().getNbOutputs(); }

Handle::~Handle() { delete plugin; }

nvinfer1::IPluginV3OneCore& Handle::core() const {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, nvinfer1::PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
}

nvinfer1::IPluginV3OneBuild& Handle::build() const {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
}

nvinfer1::IPluginV3OneRuntime& Handle::runtime() const {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME,
                                                   "PLUGIN_V3ONE_RUNTIME");
}

FieldCopy::FieldCopy(const nvinfer1::PluginField* fields, int32_t count) {
  static constexpr size_t kSizes[] = {2, 4, 8, 1, 2, 4, 1, sizeof(nvinfer1::Dims), 1, 2, 8, 1, 1, 1};
  const auto copy = [&](const void* from, size_t bytes) {
    memory_.push_back(std::make_unique<char[]>(bytes));
    std::memcpy(memory_.back().get(), from, bytes);
    return memory_.back().get();
  };
  for (int32_t i = 0; i < count; ++i) {
    nvinfer1::PluginField field = fields[i];
    if (field.name != nullptr) field.name = copy(field.name, std::strlen(field.name) + 1);
    if (field.data != nullptr && field.length > 0) {
      field.data = copy(field.data, static_cast<size_t>(field.length) * kSizes[static_cast<size_t>(field.type)]);
    }
    fields_.push_back(field);
  }
  collection_ = {};
  collection_.nbFields = count;
  collection_.fields = fields_.data();
}

}  // namespace conformance

using conformance::Handle;
using conformance::require;

namespace {

Handle* create(const char* op, const char* layer, const nvinfer1::PluginField* fields, int32_t count,
               nvinfer1::TensorRTPhase phase) {
  nvinfer1::IPluginCreatorV3One* const creator = conformance::find_creator(op);
  // The names that are given as well as the values are gone once the plugin is there.
  const std::string name(layer);
  const auto copy = std::make_unique<conformance::FieldCopy>(fields, count);
  nvinfer1::IPluginV3* const plugin = creator->createPlugin(name.c_str(), &copy->collection(), phase);
  if (plugin == nullptr) return nullptr;
  auto handle = std::make_unique<Handle>(plugin);
  nvinfer1::IPluginV3OneCore& core = handle->core();
  require(std::strcmp(plugin->getInterfaceInfo().kind, "PLUGIN") == 0, "it must be an IPluginV3");
  require(std::strcmp(core.getPluginName(), creator->getPluginName()) == 0 &&
              std::strcmp(core.getPluginVersion(), creator->getPluginVersion()) == 0 &&
              std::strcmp(core.getPluginNamespace(), creator->getPluginNamespace()) == 0,
          "plugin and creator must have the same name, version and namespace");
  require(handle->outputs > 0, "there must be an output");
  return handle.release();
}

}  // namespace

// phase 0: build, 1: runtime.
CONFORMANCE_EXPORT Handle* conformance_create(const char* op, const char* layer, const nvinfer1::PluginField* fields,
                                              int32_t count, int32_t phase) {
  return conformance::checked(static_cast<Handle*>(nullptr), [&] {
    return create(op, layer, fields, count, static_cast<nvinfer1::TensorRTPhase>(phase));
  });
}

CONFORMANCE_EXPORT Handle* conformance_clone(Handle* handle) {
  return conformance::checked(static_cast<Handle*>(nullptr), [&]() -> Handle* {
    nvinfer1::IPluginV3* const clone = handle->plugin->clone();
    require(clone != handle->plugin, "a clone is another object");
    return clone != nullptr ? new Handle(clone) : nullptr;
  });
}

// The plugin as an engine would have it: its fields, written and read again, given to the creator.
CONFORMANCE_EXPORT Handle* conformance_reload(Handle* handle, const char* layer) {
  return conformance::checked(static_cast<Handle*>(nullptr), [&] {
    const nvinfer1::PluginFieldCollection* const fields = handle->runtime().getFieldsToSerialize();
    require(fields != nullptr, "getFieldsToSerialize must give a collection");
    const auto engine = std::make_unique<conformance::FieldCopy>(fields->fields, fields->nbFields);
    const std::string op = handle->core().getPluginName();
    return create(op.c_str(), layer, engine->collection().fields, fields->nbFields, nvinfer1::TensorRTPhase::kRUNTIME);
  });
}

// Attaches a clone to a context of its own. limit: bytes that its allocator gives; negative: there is no allocator.
CONFORMANCE_EXPORT Handle* conformance_attach(Handle* handle, int64_t limit) {
  return conformance::checked(static_cast<Handle*>(nullptr), [&]() -> Handle* {
    auto context = std::make_unique<conformance::Context>();
    context->has_allocator = limit >= 0;
    context->allocator.limit = static_cast<size_t>(limit);
    nvinfer1::IPluginV3* const attached = handle->runtime().attachToContext(context.get());
    if (attached == nullptr) return nullptr;
    require(attached != handle->plugin, "attachToContext gives a clone");
    auto result = std::make_unique<Handle>(attached);
    result->context = std::move(context);
    return result.release();
  });
}

// Destroys the plugin and looks at what it leaves behind.
CONFORMANCE_EXPORT int32_t conformance_destroy(Handle* handle) {
  return conformance::checked(-1, [&] {
    const std::unique_ptr<Handle> owner(handle);
    delete owner->plugin;
    owner->plugin = nullptr;
    if (owner->context != nullptr) {
      owner->context->allocator.check();
      require(owner->context->allocator.bytes() == 0, "the plugin left device memory behind");
    }
    return 0;
  });
}

CONFORMANCE_EXPORT int32_t conformance_outputs(const Handle* handle) { return handle->outputs; }

CONFORMANCE_EXPORT int64_t conformance_context_bytes(const Handle* handle) {
  return static_cast<int64_t>(handle->context->allocator.bytes());
}
