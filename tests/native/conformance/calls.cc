// Configuration and execution.
#include <cstring>
#include <set>

#include "conformance.h"

using conformance::Handle;
using conformance::require;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

template <typename Desc>
std::vector<Desc> copy(const Desc* from, int32_t count) {
  return std::vector<Desc>(from, from + count);
}

}  // namespace

// As the builder does for one profile and one combination of formats. `workspace` gets what is asked for.
CONFORMANCE_EXPORT int32_t conformance_configure(Handle* handle, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                                 uint64_t* workspace) {
  return conformance::checked(-1, [&] {
    const auto in = copy(tensors, inputs), out = copy(tensors + inputs, handle->outputs);
    nvinfer1::IPluginV3OneBuild& build = handle->build();
    const int32_t code = build.configurePlugin(in.data(), inputs, out.data(), handle->outputs);
    if (code != 0) return code;
    *workspace = build.getWorkspaceSize(in.data(), inputs, out.data(), handle->outputs);
    require(*workspace == build.getWorkspaceSize(in.data(), inputs, out.data(), handle->outputs),
            "getWorkspaceSize must answer the same twice");
    std::vector<int32_t> tactics(static_cast<size_t>(build.getNbTactics()));
    require(build.getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())) == 0, "getValidTactics failed");
    const std::set<int32_t> unique(tactics.begin(), tactics.end());
    require(unique.size() == tactics.size() && unique.count(0) == 0, "tactics must be unique and not 0");
    return 0;
  });
}

CONFORMANCE_EXPORT const char* conformance_timing_cache_id(Handle* handle) {
  return handle->build().getTimingCacheID();
}

CONFORMANCE_EXPORT int32_t conformance_shape_change(Handle* handle, const PluginTensorDesc* tensors, int32_t inputs) {
  return conformance::checked(-1, [&] {
    const auto in = copy(tensors, inputs), out = copy(tensors + inputs, handle->outputs);
    return handle->runtime().onShapeChange(in.data(), inputs, out.data(), handle->outputs);
  });
}

// With a workspace of just `workspace_bytes`. `memory` has the addresses of all inputs and outputs.
CONFORMANCE_EXPORT int32_t conformance_enqueue(Handle* handle, const PluginTensorDesc* tensors, int32_t inputs,
                                               void* const* memory, uint64_t workspace_bytes) {
  return conformance::checked(-1, [&] {
    const auto in = copy(tensors, inputs), out = copy(tensors + inputs, handle->outputs);
    const std::vector<const void*> sources(memory, memory + inputs);
    const std::vector<void*> targets(memory + inputs, memory + inputs + handle->outputs);
    conformance::Allocator own;
    void* const workspace = workspace_bytes > 0 ? own.allocateAsync(workspace_bytes, 256, 0, nullptr) : nullptr;
    const size_t before = handle->context != nullptr ? handle->context->allocator.bytes() : 0;
    static char stream;
    const int32_t code = handle->runtime().enqueue(in.data(), out.data(), sources.data(), targets.data(), workspace,
                                                   reinterpret_cast<cudaStream_t>(&stream));
    own.check();
    if (handle->context != nullptr) {
      handle->context->allocator.check();
      require(handle->context->allocator.bytes() == before, "enqueue must not allocate");
    }
    return code;
  });
}
