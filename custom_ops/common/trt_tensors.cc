#include "common/trt_tensors.h"

#include <algorithm>
#include <cmath>

namespace edgeconv::trt {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

bool is_complete(const Dims& dims) {
  return dims.nbDims >= 0 && std::all_of(dims.d, dims.d + dims.nbDims, [](int64_t size) { return size >= 0; });
}

// From `least` to `most`, in steps that grow with the size; `part` is from 0 to `parts`.
int64_t between(int64_t least, int64_t most, int part, int parts) {
  if (least <= 0) return part == 0 ? least : between(1, most, part, parts);
  const double factor = std::pow(static_cast<double>(most) / static_cast<double>(least), 1.0 * part / parts);
  return std::min<int64_t>(most, std::llround(static_cast<double>(least) * factor));
}

}  // namespace

bool sample_profile(const DynamicPluginTensorDesc* in, int32_t inputs, std::vector<Tensors>* samples) {
  constexpr int kParts = 6;
  std::vector<PluginTensorDesc> known;
  bool dynamic = false;
  for (int32_t i = 0; i < inputs; ++i) {
    known.push_back(in[i].desc);
    if (in[i].desc.dims.nbDims < 0 || is_complete(in[i].desc.dims)) continue;
    dynamic = true;
    if (!is_complete(in[i].min) || !is_complete(in[i].opt) || !is_complete(in[i].max)) return false;
    known.back().dims = in[i].opt;
  }
  samples->push_back({known, {}});
  for (int batch = 0; dynamic && batch <= kParts; ++batch) {
    for (int size = 0; size <= kParts; ++size) {
      std::vector<PluginTensorDesc> now = known;
      for (int32_t i = 0; i < inputs; ++i) {
        Dims& dims = now[static_cast<size_t>(i)].dims;
        if (in[i].desc.dims.nbDims < 0 || is_complete(in[i].desc.dims)) continue;
        for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
          dims.d[axis] = between(in[i].min.d[axis], in[i].max.d[axis], axis == 0 ? batch : size, kParts);
        }
      }
      samples->push_back({now, {}});
    }
  }
  return true;
}

bool same_tensors(const std::vector<PluginTensorDesc>& known, const PluginTensorDesc* now) {
  return std::equal(known.begin(), known.end(), now, [](const PluginTensorDesc& a, const PluginTensorDesc& b) {
    return a.type == b.type && a.format == b.format && a.dims.nbDims == b.dims.nbDims &&
           (a.dims.nbDims < 0 || std::equal(a.dims.d, a.dims.d + a.dims.nbDims, b.dims.d));
  });
}

const char* type_name(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
    case DataType::kINT8: return "int8";
    case DataType::kUINT8: return "uint8";
    case DataType::kINT32: return "int32";
    case DataType::kINT64: return "int64";
    case DataType::kBF16: return "bfloat16";
    case DataType::kBOOL: return "bool";
    default: return "of an unknown type";
  }
}

std::string to_text(const Dims& dims) {
  std::string text = "(";
  for (int32_t i = 0; i < dims.nbDims; ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
  return text + ")";
}

}  // namespace edgeconv::trt
