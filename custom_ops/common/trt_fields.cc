#include "common/trt_fields.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>

#include "common/trt_log.h"

namespace edgeconv::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

[[noreturn]] void fail(const FieldSpec& spec, const std::string& found) {
  const std::string count = spec.count > 0 ? std::to_string(spec.count) + " " : "";
  const std::string plural = spec.count == 1 ? "" : "s";
  const std::string wanted = spec.kind == FieldKind::kInts     ? count + "32-bit integer" + plural
                             : spec.kind == FieldKind::kFloats ? count + "32-bit float" + plural
                                                               : "text";
  throw Error{"attribute " + std::string(spec.name) + " is " + found + ": it must be " + wanted};
}

template <typename From>
std::vector<int32_t> read_ints(const FieldSpec& spec, const PluginField& field) {
  std::vector<int32_t> values;
  for (int32_t i = 0; i < field.length; ++i) {
    const From value = static_cast<const From*>(field.data)[i];
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
      fail(spec, std::to_string(value));
    }
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

}  // namespace

Fields Fields::read(const std::vector<FieldSpec>& specs, const nvinfer1::PluginFieldCollection* given) {
  Fields fields;
  for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
    const PluginField& field = given->fields[i];
    if (field.name == nullptr) throw Error{"attribute " + std::to_string(i) + " has no name"};
    const auto spec = std::find_if(specs.begin(), specs.end(), [&](const FieldSpec& candidate) {
      return std::strcmp(candidate.name, field.name) == 0;
    });
    if (spec == specs.end()) throw Error{"attribute " + std::string(field.name) + " is not known"};
    if (fields.has(spec->name)) throw Error{"attribute " + std::string(spec->name) + " is given twice"};
    if (field.length < 1 || field.data == nullptr) fail(*spec, "empty");
    Field& added = fields.add(*spec);
    if (spec->kind == FieldKind::kInts && field.type == PluginFieldType::kINT32) {
      added.ints = read_ints<int32_t>(*spec, field);
    } else if (spec->kind == FieldKind::kInts && field.type == PluginFieldType::kINT64) {
      added.ints = read_ints<int64_t>(*spec, field);
    } else if (spec->kind == FieldKind::kFloats && field.type == PluginFieldType::kFLOAT32) {
      const float* const values = static_cast<const float*>(field.data);
      added.floats.assign(values, values + field.length);
    } else if (spec->kind == FieldKind::kText && field.type == PluginFieldType::kCHAR) {
      const char* const text = static_cast<const char*>(field.data);
      added.text.assign(text, strnlen(text, static_cast<size_t>(field.length)));
    } else {
      fail(*spec, "of field type " + std::to_string(static_cast<int32_t>(field.type)));
    }
    if (spec->kind != FieldKind::kText && spec->count > 0 && field.length != spec->count) {
      fail(*spec, std::to_string(field.length) + (field.length == 1 ? " value" : " values"));
    }
  }
  return fields;
}

const Fields::Field* Fields::find(const char* name) const {
  const auto found = std::find_if(fields_.begin(), fields_.end(),
                                  [&](const Field& field) { return std::strcmp(field.name, name) == 0; });
  return found != fields_.end() ? &*found : nullptr;
}

Fields::Field& Fields::add(const FieldSpec& spec) {
  Field empty = {};
  empty.name = spec.name;
  empty.kind = spec.kind;
  const auto less = [](const Field& field, const char* name) { return std::strcmp(field.name, name) < 0; };
  const auto place = std::lower_bound(fields_.begin(), fields_.end(), spec.name, less);
  if (place != fields_.end() && std::strcmp(place->name, spec.name) == 0) return *place = empty;
  return *fields_.insert(place, empty);
}

void Fields::get(const char* name, int64_t* to) const {
  if (const Field* field = find(name)) std::copy(field->ints.begin(), field->ints.end(), to);
}

void Fields::get(const char* name, float* to) const {
  if (const Field* field = find(name)) std::copy(field->floats.begin(), field->floats.end(), to);
}

std::vector<float> Fields::floats(const char* name) const {
  const Field* const field = find(name);
  return field != nullptr ? field->floats : std::vector<float>();
}

std::string Fields::text(const char* name) const {
  const Field* const field = find(name);
  return field != nullptr ? field->text : std::string();
}

Fields Fields::only(const std::vector<FieldSpec>& specs) const {
  Fields result;
  for (const FieldSpec& spec : specs) {
    if (const Field* field = find(spec.name)) result.add(spec) = *field;
  }
  return result;
}

void Fields::set_ints(const FieldSpec& spec, std::vector<int32_t> values) { add(spec).ints = std::move(values); }

void Fields::set_text(const FieldSpec& spec, const std::string& text) { add(spec).text = text; }

std::vector<PluginField> Fields::plugin_fields() const {
  std::vector<PluginField> result;
  for (const Field& field : fields_) {
    if (field.kind == FieldKind::kInts) {
      result.emplace_back(field.name, field.ints.data(), PluginFieldType::kINT32,
                          static_cast<int32_t>(field.ints.size()));
    } else if (field.kind == FieldKind::kFloats) {
      result.emplace_back(field.name, field.floats.data(), PluginFieldType::kFLOAT32,
                          static_cast<int32_t>(field.floats.size()));
    } else {
      result.emplace_back(field.name, field.text.c_str(), PluginFieldType::kCHAR,
                          static_cast<int32_t>(field.text.size() + 1));
    }
  }
  return result;
}

std::string Fields::describe() const {
  std::string result;
  for (const Field& field : fields_) {
    result += std::string(result.empty() ? "" : " ") + field.name + "=" + field.text;
    const char* separator = "";
    for (const int32_t value : field.ints) {
      result += separator + std::to_string(value);
      separator = ",";
    }
    for (const float value : field.floats) {
      char digits[32];
      std::snprintf(digits, sizeof(digits), "%s%.9g", separator, static_cast<double>(value));
      result += digits;
      separator = ",";
    }
  }
  return result;
}

}  // namespace edgeconv::trt
