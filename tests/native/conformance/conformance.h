// Plays TensorRT's part towards a plugin library: what the builder, the runtime and an execution context ask of a
// plugin, in their order, with their rules, and with nothing of TensorRT but its headers. Driven by
// tests/trt_conformance.py.
//
// Functions return 0 or a pointer for success. Where the harness itself finds a rule broken, it throws Broken, and the
// C function that was called returns -1 and leaves the sentence in conformance_broken(). What a plugin logs is in
// conformance_messages().
#ifndef EDGECONV_TESTS_NATIVE_CONFORMANCE_H_
#define EDGECONV_TESTS_NATIVE_CONFORMANCE_H_

#include <NvInferRuntime.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#define CONFORMANCE_EXPORT extern "C" __attribute__((visibility("default")))

namespace conformance {

// A rule of TensorRT's interfaces that a plugin broke.
struct Broken {
  std::string rule;
};

void set_broken(const std::string& rule);

// Runs `body`; what it throws becomes `failed` and a sentence.
template <typename Result, typename Body>
Result checked(Result failed, const Body& body) {
  set_broken("");
  try {
    return body();
  } catch (const Broken& broken) {
    set_broken(broken.rule);
  } catch (const std::exception& error) {
    set_broken(std::string("the harness failed: ") + error.what());
  }
  return failed;
}

inline void require(bool holds, const std::string& rule) {
  if (!holds) throw Broken{rule};
}

// Memory of just the size that was asked for, between guards, and all that is still in use.
class Allocator : public nvinfer1::IGpuAsyncAllocator {
 public:
  ~Allocator() override;
  void* allocateAsync(uint64_t size, uint64_t alignment, nvinfer1::AllocatorFlags flags,
                      cudaStream_t stream) noexcept override;
  bool deallocateAsync(void* memory, cudaStream_t stream) noexcept override;

  // Throws Broken where something wrote beyond the ends of a block.
  void check() const;
  size_t bytes() const;
  size_t limit = SIZE_MAX;  // of all blocks
  bool misused = false;     // freed what was not allocated, or asked for nothing

 private:
  std::map<char*, size_t> blocks_;
};

class Context : public nvinfer1::IPluginResourceContext {
 public:
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return has_allocator ? &allocator : nullptr; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  mutable Allocator allocator;
  bool has_allocator = true;
};

// A plugin as TensorRT holds it, and the memory of what it was attached to.
struct Handle {
  nvinfer1::IPluginV3* plugin = nullptr;
  std::unique_ptr<Context> context;
  int32_t outputs = 0;

  Handle() = default;
  explicit Handle(nvinfer1::IPluginV3* plugin_);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  nvinfer1::IPluginV3OneCore& core() const;
  nvinfer1::IPluginV3OneBuild& build() const;
  nvinfer1::IPluginV3OneRuntime& runtime() const;
};

// Fields in memory of their own, which is gone after the call that they were made for.
class FieldCopy {
 public:
  FieldCopy(const nvinfer1::PluginField* fields, int32_t count);
  const nvinfer1::PluginFieldCollection& collection() const { return collection_; }

 private:
  std::vector<std::unique_ptr<char[]>> memory_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

nvinfer1::IPluginCreatorV3One* find_creator(const char* name);

}  // namespace conformance

#endif  // EDGECONV_TESTS_NATIVE_CONFORMANCE_H_
