#include "common/trt_plugin.h"

#include <algorithm>

namespace edgeconv::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

// What the nodes state as plugin_version and plugin_namespace.
constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "edgeconv";

// Fields that an engine has besides the attributes.
constexpr FieldSpec kNode = {"node", FieldKind::kText, 0};
constexpr FieldSpec kDevice = {"planned_for", FieldKind::kInts, 3};          // an EdgeconvCudaDevice
constexpr FieldSpec kWorkspace = {"workspace_blocks", FieldKind::kInts, 1};  // of kAlignment bytes

std::string device_name(const EdgeconvCudaDevice& device) {
  return "compute capability " + std::to_string(device.compute_capability / 10) + "." +
         std::to_string(device.compute_capability % 10) + " and " + std::to_string(device.shared_bytes >> 10) +
         " KiB of shared memory a block";
}

}  // namespace

const FieldSpec kConstantFilters = {"constant_filters", FieldKind::kInts, 1};

Plugin::Plugin(const Operator& op, const PluginState& state)
    : op_(op), state_(state), description_(state.fields.describe()) {
  int64_t constant = 0;
  state_.fields.get(kConstantFilters.name, &constant);
  if (constant != 0 && constant != 1) {
    throw Error{"constant_filters is " + std::to_string(constant) + ": it must be 0 or 1"};
  }
  constant_filters_ = constant == 1;
}

std::string Plugin::prefix() const { return std::string(op_.name) + " '" + state_.node + "': "; }

// "X float32 (1, 3, 7, 9), W float32 (5, 3, 3, 3)".
std::string Plugin::describe(const Tensors& tensors) const {
  std::string text;
  for (size_t i = 0; i < tensors.inputs.size(); ++i) {
    const PluginTensorDesc* const desc = tensors.input(i);
    if (desc == nullptr) continue;
    text +=
        std::string(text.empty() ? "" : ", ") + op_.inputs[i] + " " + type_name(desc->type) + " " + to_text(desc->dims);
  }
  return text;
}

// Core and cloning.

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, static_cast<nvinfer1::IPluginV3*>(nullptr), [&] {
    std::unique_ptr<Plugin> copy = op_.make(op_, state_);
    copy->allocator_ = allocator_;
    return static_cast<nvinfer1::IPluginV3*>(copy.release());
  });
}

const char* Plugin::getPluginVersion() const noexcept { return kVersion; }

const char* Plugin::getPluginNamespace() const noexcept { return kNamespace; }

// Build.

void Plugin::check_input_count(int32_t count) const {
  const int32_t most = static_cast<int32_t>(op_.inputs.size()), least = most - (op_.has_optional ? 1 : 0);
  if (count >= least && count <= most) return;
  std::string names;
  for (const char* name : op_.inputs) names += std::string(names.empty() ? "" : ", ") + name;
  throw Error{"it has " + std::to_string(count) + " inputs: expected " + names +
              (op_.has_optional ? ", of which the last may be absent" : "")};
}

int32_t Plugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType* input_types,
                                   int32_t inputs) const noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, 1, [&] {
    check_input_count(inputs);
    if (outputs != op_.outputs) throw Error{"it is asked for " + std::to_string(outputs) + " outputs"};
    output_types(input_types, inputs, types);
    return 0;
  });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*,
                                int32_t shape_input_count, nvinfer1::DimsExprs* out, int32_t outputs,
                                nvinfer1::IExprBuilder& builder) noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, 1, [&] {
    check_input_count(inputs);
    if (shape_input_count != 0) throw Error{"it takes no shape tensors"};
    if (outputs != op_.outputs) throw Error{"it is asked for " + std::to_string(outputs) + " outputs"};
    output_shapes(in, inputs, out, builder);
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t place, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                       int32_t outputs) noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, false, [&] {
    check_input_count(inputs);
    if (place < 0 || place >= inputs + outputs || outputs != op_.outputs) return false;
    const bool absent = op_.has_optional && place == static_cast<int32_t>(op_.inputs.size()) - 1 && place < inputs &&
                        tensors[place].desc.dims.nbDims < 0;
    return absent || supports(place, tensors, inputs);
  });
}

// A larger input may need less, because its sums need not be split. What no sample shows, prepare() makes up for.
int64_t Plugin::measure(const DynamicPluginTensorDesc* in, int32_t inputs) const {
  check_input_count(inputs);
  std::vector<Tensors> samples;
  if (!sample_profile(in, inputs, &samples)) {
    throw Error{"the profile has no sizes for its inputs: state the least, best and largest shapes"};
  }
  const std::unique_ptr<Plugin> probe = op_.make(op_, state_);
  probe->set_device();
  int64_t bytes = 0;
  for (const Tensors& tensors : samples) {
    try {
      const MemoryNeeds needs = probe->plan(tensors);
      bytes = std::max(bytes, align(needs.workspace_bytes) + align(needs.packed_bytes));
    } catch (const Error& error) {
      throw Error{error.message + " (in this profile: " + describe(tensors) + ")"};
    }
  }
  return bytes;
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                int32_t outputs) noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, 1, [&] {
    set_device();
    const int64_t bytes = measure(in, inputs);
    std::string formats;
    const auto add = [&](const PluginTensorDesc& desc) {
      formats += std::to_string(static_cast<int32_t>(desc.type)) + "," +
                 std::to_string(static_cast<int32_t>(desc.format)) + " ";
    };
    for (int32_t i = 0; i < inputs; ++i) add(in[i].desc);
    for (int32_t i = 0; i < outputs; ++i) add(out[i].desc);
    // With several profiles: what there is with each of them.
    const bool other_profile = formats == state_.formats;
    state_.workspace_bytes = other_profile ? std::min(state_.workspace_bytes, bytes) : bytes;
    state_.formats = formats;
    return 0;
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*,
                                int32_t) const noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, size_t{0}, [&] { return static_cast<size_t>(measure(in, inputs)); });
}

// Runtime.

// The GPU of the build, if this plugin comes from an engine, else the current one.
void Plugin::set_device() {
  EdgeconvStatus status = {};
  EdgeconvCudaDevice here = {};
  if (!state_.has_device) {
    check(edgeconv_cuda_device(&here, &status), status);
    state_.device = here;
    state_.has_device = true;
    state_.is_own_device = true;
  } else if (!state_.is_own_device) {
    check(edgeconv_cuda_device(&here, &status), status);
    if (here.compute_capability < state_.device.compute_capability || here.shared_bytes < state_.device.shared_bytes) {
      throw Error{"the engine was built for " + device_name(state_.device) + ", and this GPU has " + device_name(here) +
                  ": build it on this GPU"};
    }
    state_.is_own_device = true;
  }
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext* context) noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, static_cast<nvinfer1::IPluginV3*>(nullptr), [&] {
    std::unique_ptr<Plugin> attached = op_.make(op_, state_);
    if (context != nullptr) attached->allocator_ = context->getGpuAllocator();
    attached->workspace_ = std::make_unique<DeviceMemory>(attached->allocator_);
    attached->packed_ = std::make_unique<DeviceMemory>(attached->allocator_);
    return static_cast<nvinfer1::IPluginV3*>(attached.release());
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                              int32_t outputs) noexcept {
  Tensors tensors;
  const auto where = [&] { return prefix() + describe(tensors) + ": "; };
  return guarded(where, 1, [&] {
    check_input_count(inputs);
    tensors.inputs.assign(in, in + inputs);
    tensors.outputs.assign(out, out + outputs);
    prepare(tensors);
    return 0;
  });
}

void Plugin::prepare(const Tensors& tensors) {
  tensors_ = {};
  set_device();
  needs_ = plan(tensors);
  // Both are a matter of speed, or of shapes beyond the profile: without an allocator the workspace has to do.
  if (constant_filters_ && packed_ != nullptr && needs_.packed_bytes > packed_->bytes()) {
    packed_from_ = nullptr;
    packed_->reserve(needs_.packed_bytes);
  }
  const int64_t bytes = align(needs_.workspace_bytes) + align(needs_.packed_bytes);
  if (bytes > state_.workspace_bytes && workspace_ != nullptr && !workspace_->reserve(bytes)) {
    throw Error{"it needs " + std::to_string(bytes) + " bytes of device memory, the engine was built with " +
                std::to_string(state_.workspace_bytes) +
                ", and more cannot be had: free memory, or build the engine with this shape in its profile"};
  }
  tensors_ = tensors;
}

int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const auto where = [&] { return prefix() + describe(tensors_) + ": "; };
  return guarded(where, 1, [&] {
    if (tensors_.inputs.empty()) throw Error{"it was enqueued before its shapes were stated and accepted"};
    if (!same_tensors(tensors_.inputs, in) || !same_tensors(tensors_.outputs, out)) {
      Tensors tensors;
      tensors.inputs.assign(in, in + tensors_.inputs.size());
      tensors.outputs.assign(out, out + tensors_.outputs.size());
      prepare(tensors);
    }
    check_alignment(inputs, outputs);
    const int64_t bytes = align(needs_.workspace_bytes) + align(needs_.packed_bytes);
    const bool own_workspace = bytes > state_.workspace_bytes && workspace_ != nullptr;
    Call call = {inputs, outputs, own_workspace ? workspace_->get() : workspace, nullptr, true, stream};
    call.packed = static_cast<char*>(call.workspace) + align(needs_.workspace_bytes);
    if (constant_filters_ && packed_ != nullptr && packed_->bytes() >= needs_.packed_bytes && filters_input() >= 0) {
      const void* const filters = inputs[filters_input()];
      call.packed = packed_->get();
      call.pack = packed_from_ != filters;
      run(call);
      // What is captured happens when the graph is launched, if ever.
      if (call.pack && !is_capturing(stream)) packed_from_ = filters;
    } else {
      run(call);
    }
    return 0;
  });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  const auto where = [&] { return prefix(); };
  return guarded(where, static_cast<const nvinfer1::PluginFieldCollection*>(nullptr), [&] {
    serialized_ = state_.fields;
    serialized_.set_text(kNode, state_.node);
    if (state_.has_device) {
      serialized_.set_ints(kDevice, {state_.device.compute_capability, state_.device.multiprocessors,
                                     static_cast<int32_t>(state_.device.shared_bytes)});
      serialized_.set_ints(kWorkspace, {static_cast<int32_t>(state_.workspace_bytes / kAlignment)});
    }
    serialized_fields_ = serialized_.plugin_fields();
    serialized_collection_.nbFields = static_cast<int32_t>(serialized_fields_.size());
    serialized_collection_.fields = serialized_fields_.data();
    return static_cast<const nvinfer1::PluginFieldCollection*>(&serialized_collection_);
  });
}

// What the kernels ask of the addresses of activations and filters. TensorRT's own are multiples of 256; those of
// tensors that an application binds need not be.
void Plugin::check_alignment(const void* const* inputs, void* const* outputs) const {
  constexpr uintptr_t kBytes = 16;
  const auto check_address = [](const char* name, const void* address) {
    if (reinterpret_cast<uintptr_t>(address) % kBytes == 0) return;
    throw Error{std::string(name) + " lies at an address that is not a multiple of 16 bytes: bind memory that is"};
  };
  check_address(op_.inputs[0], inputs[0]);
  if (filters_input() >= 0) check_address(op_.inputs[static_cast<size_t>(filters_input())], inputs[filters_input()]);
  for (int32_t i = 0; i < op_.outputs; ++i) check_address("an output", outputs[i]);
}

// Creators.

Creator::Creator(const Operator& op) : op_(op) {
  for (const FieldSpec& spec : op.attributes) {
    const nvinfer1::PluginFieldType type = spec.kind == FieldKind::kInts     ? nvinfer1::PluginFieldType::kINT32
                                           : spec.kind == FieldKind::kFloats ? nvinfer1::PluginFieldType::kFLOAT32
                                                                             : nvinfer1::PluginFieldType::kCHAR;
    fields_.emplace_back(spec.name, nullptr, type, spec.count);
  }
  collection_.nbFields = static_cast<int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection* given,
                                           nvinfer1::TensorRTPhase phase) noexcept {
  PluginState state;
  const auto prefix = [&] {
    return std::string(op_.name) + " '" + (state.node.empty() && name != nullptr ? name : state.node) + "': ";
  };
  return guarded(prefix, static_cast<nvinfer1::IPluginV3*>(nullptr), [&] {
    std::vector<FieldSpec> specs = op_.attributes;
    if (phase == nvinfer1::TensorRTPhase::kRUNTIME) specs.insert(specs.end(), {kNode, kDevice, kWorkspace});
    const Fields all = Fields::read(specs, given);
    state.node = all.has(kNode.name) ? all.text(kNode.name) : name != nullptr ? name : "";
    if (all.has(kDevice.name)) {
      int64_t device[3] = {}, blocks = 0;
      all.get(kDevice.name, device);
      all.get(kWorkspace.name, &blocks);
      state.device = {static_cast<int32_t>(device[0]), static_cast<int32_t>(device[1]), device[2]};
      if (*std::min_element(device, device + 3) < 1 || blocks < 0) {
        throw Error{"the engine describes no GPU: it is damaged, build it again"};
      }
      state.has_device = true;
      state.workspace_bytes = blocks * kAlignment;
    }
    state.fields = all.only(op_.attributes);
    return static_cast<nvinfer1::IPluginV3*>(op_.make(op_, state).release());
  });
}

const char* Creator::getPluginVersion() const noexcept { return kVersion; }

const char* Creator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace edgeconv::trt
