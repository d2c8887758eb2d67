// What the plugins of all operators do alike: the interfaces of IPluginV3, and their creators. An operator's plugin is
// a class of `Plugin` that says which types and formats it takes, how large its outputs and its memory are, and that
// calls the launch functions.
//
// The order of things: TensorRT's parser makes a plugin of a node's attributes; the builder asks for types, shapes and
// formats, configures it for the range of shapes of a profile and runs clones of it; what getFieldsToSerialize() gives
// is kept in the engine. A runtime makes a plugin of that, each execution context attaches a clone, which is told each
// new shape (plan()) and then enqueued (run()).
//
// Filters come as a tensor like any other, at an address that is first known in enqueue(), and nothing says whether
// they are constant: they are packed anew in each call, into the workspace. The attribute constant_filters=1 is the
// word of whoever writes the node that they are: then they are packed once for each execution context, into memory that
// it keeps, when the first call brings their address.
//
// An engine may hold for GPUs of one kind that differ in size, and for shapes other than those that it was built for.
// Work is therefore planned for the GPU of the build, whose description the engine carries. The workspace is that of
// shapes across the profile; where another one needs more, the execution context gets memory of its own before the
// call.
#ifndef EDGECONV_COMMON_TRT_PLUGIN_H_
#define EDGECONV_COMMON_TRT_PLUGIN_H_

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "common/cuda_launch.h"
#include "common/trt_fields.h"
#include "common/trt_log.h"
#include "common/trt_memory.h"
#include "common/trt_tensors.h"

namespace edgeconv::trt {

class Plugin;

// What a plugin is made of, and what is copied when it is cloned.
struct PluginState {
  std::string node;  // name of the layer
  Fields fields;     // the node's attributes
  EdgeconvCudaDevice device = {};
  bool has_device = false;
  bool is_own_device = false;   // `device` is, or can be stood in for by, the one that this process uses
  int64_t workspace_bytes = 0;  // that the builder has been asked for
  std::string formats;          // for tensors of these types and formats
};

// One operator.
struct Operator {
  const char* name;
  std::vector<const char*> inputs;  // names; the last one is optional where `has_optional`
  bool has_optional;
  int32_t outputs;
  std::vector<FieldSpec> attributes;
  int32_t variant;  // which of its family
  // Throws Error where the attributes do not fit.
  std::unique_ptr<Plugin> (*make)(const Operator& op, const PluginState& state);
};

// What a plugin needs of device memory for one shape.
struct MemoryNeeds {
  int64_t workspace_bytes;
  int64_t packed_bytes;  // for packed filters
};

// The memory of one call.
struct Call {
  const void* const* inputs;
  void* const* outputs;
  void* workspace;
  void* packed;
  bool pack;  // whether filters must be packed first
  cudaStream_t stream;
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(const Operator& op, const PluginState& state);

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_inputs,
                          int32_t shape_input_count, nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;
  int32_t getNbOutputs() const noexcept override { return op_.outputs; }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;
  const char* getTimingCacheID() noexcept override { return description_.c_str(); }
  const char* getMetadataString() noexcept override { return description_.c_str(); }

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 protected:
  // What an operator's plugin says. Failures are thrown.
  virtual void output_types(const nvinfer1::DataType* inputs, int32_t count, nvinfer1::DataType* outputs) const = 0;
  virtual void output_shapes(const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs* outputs,
                             nvinfer1::IExprBuilder& builder) const = 0;
  // Whether type and format of tensor `place` fit those before it; `tensors[place]` is there.
  virtual bool supports(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs) const = 0;
  // Prepares calls with these tensors; needs device().
  virtual MemoryNeeds plan(const Tensors& tensors) = 0;
  virtual void run(const Call& call) = 0;
  // The input that is packed where constant_filters says that it may be packed once; -1: none.
  virtual int32_t filters_input() const { return -1; }

  const Fields& fields() const { return state_.fields; }
  const EdgeconvCudaDevice& device() const { return state_.device; }
  const char* input_name(int32_t index) const { return op_.inputs[static_cast<size_t>(index)]; }

 private:
  std::string prefix() const;
  std::string describe(const Tensors& tensors) const;
  void check_input_count(int32_t count) const;
  void set_device();
  int64_t measure(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs) const;
  void prepare(const Tensors& tensors);
  void check_alignment(const void* const* inputs, void* const* outputs) const;

  const Operator& op_;
  PluginState state_;
  std::string description_;  // of the attributes
  bool constant_filters_ = false;

  // Of a clone that is attached to a context.
  nvinfer1::IGpuAllocator* allocator_ = nullptr;
  std::unique_ptr<DeviceMemory> workspace_, packed_;
  Tensors tensors_;
  MemoryNeeds needs_ = {};
  const void* packed_from_ = nullptr;  // the filters that `packed_` holds

  // What getFieldsToSerialize() points into.
  Fields serialized_;
  std::vector<nvinfer1::PluginField> serialized_fields_;
  nvinfer1::PluginFieldCollection serialized_collection_ = {};
};

// For Operator::make.
template <typename Made>
std::unique_ptr<Plugin> make_plugin(const Operator& op, const PluginState& state) {
  return std::make_unique<Made>(op, state);
}

class Creator : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const Operator& op);
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  const Operator& op_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_ = {};
};

// An attribute of every operator that packs filters.
extern const FieldSpec kConstantFilters;

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_PLUGIN_H_
