// Plugin fields: what a node's attributes are in TensorRT, and what an engine file keeps of a plugin.
//
// TensorRT's ONNX parser hands over those attributes that the creator names: integers as kINT32, floats as kFLOAT32,
// strings as kCHAR with a 0 at the end, and lists with their length. Absent ones are absent; the default is ours.
#ifndef EDGECONV_COMMON_TRT_FIELDS_H_
#define EDGECONV_COMMON_TRT_FIELDS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace edgeconv::trt {

enum class FieldKind { kInts, kFloats, kText };

struct FieldSpec {
  const char* name;
  FieldKind kind;
  int32_t count;  // of its values; 0: any number of them. Texts have none
};

// The fields of one plugin by name: those that were given.
class Fields {
 public:
  // Throws Error where a field has no spec, or not the kind or the number of values that its spec states.
  static Fields read(const std::vector<FieldSpec>& specs, const nvinfer1::PluginFieldCollection* given);

  bool has(const char* name) const { return find(name) != nullptr; }
  // Copies the values of `name` into `to`, which stays as it is where the field is absent.
  void get(const char* name, int64_t* to) const;
  void get(const char* name, float* to) const;
  std::vector<float> floats(const char* name) const;
  std::string text(const char* name) const;

  // Those that have a spec.
  Fields only(const std::vector<FieldSpec>& specs) const;

  void set_ints(const FieldSpec& spec, std::vector<int32_t> values);
  void set_text(const FieldSpec& spec, const std::string& text);

  // As PluginFields, which point into this object.
  std::vector<nvinfer1::PluginField> plugin_fields() const;
  // "name=1,2 other=0.5", in the order of their names.
  std::string describe() const;

 private:
  struct Field {
    const char* name;
    FieldKind kind;
    std::vector<int32_t> ints;
    std::vector<float> floats;
    std::string text;
  };
  const Field* find(const char* name) const;
  Field& add(const FieldSpec& spec);

  std::vector<Field> fields_;
};

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_FIELDS_H_
