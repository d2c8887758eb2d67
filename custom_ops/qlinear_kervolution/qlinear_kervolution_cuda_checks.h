// What the CUDA kernels of 8-bit kervolution take.
#ifndef EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_CHECKS_H_
#define EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_CHECKS_H_

#include "qlinear_kervolution/qlinear_kervolution_cuda.h"

namespace {

constexpr int64_t kMostElements = int64_t{1} << 31;  // kernels count in 32 bits
constexpr int64_t kLargestDifference = 510;          // of bytes with zero-points

// At most kMostElements, so that products of many sizes stay in 64 bits.
inline int64_t limited_product(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_mul_overflow(a, b, &result) || result > kMostElements ? kMostElements : result;
}

inline int check_tensor(const char* name, int64_t items, int64_t channels, int64_t height, int64_t width,
                        EdgeconvStatus* status) {
  if (limited_product(limited_product(limited_product(items, channels), height), width) < kMostElements) {
    return EDGECONV_OK;
  }
  return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                             "the CUDA kernels take tensors of fewer than 2^31 elements: %s has %lld x %lld x %lld x "
                             "%lld. Cut the batch or the image into parts",
                             name, static_cast<long long>(items), static_cast<long long>(channels),
                             static_cast<long long>(height), static_cast<long long>(width));
}

inline bool is_byte(int32_t type) { return type == EDGECONV_UINT8 || type == EDGECONV_INT8; }

inline int check_format(const EdgeconvConvShape& shape, const EdgeconvCudaFormat& format, EdgeconvStatus* status) {
  if (format.layout != EDGECONV_NCHW && format.layout != EDGECONV_NHWC) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "layout %d is neither NCHW nor NHWC", format.layout);
  }
  if (format.layout == EDGECONV_NHWC &&
      (format.x_channel_pitch < shape.in_channels || format.y_channel_pitch < shape.out_channels)) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT,
                               "pixels of %lld and %lld elements cannot hold %lld input and %lld output channels",
                               static_cast<long long>(format.x_channel_pitch),
                               static_cast<long long>(format.y_channel_pitch),
                               static_cast<long long>(shape.in_channels), static_cast<long long>(shape.out_channels));
  }
  return EDGECONV_OK;
}

inline int check(const EdgeconvQLinearKervolutionParams& params, const EdgeconvCudaFormat& format,
                 EdgeconvStatus* status) {
  const EdgeconvConvShape& shape = params.shape;
  if (!is_byte(params.x_type) || !is_byte(params.w_type) || !is_byte(params.y_type)) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "X, W and Y must be uint8 or int8");
  }
  if (params.kernel != EDGECONV_QLINEAR_MANHATTAN) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "there is no 8-bit kernel %d", params.kernel);
  }
  int code = check_format(shape, format, status);
  if (code != EDGECONV_OK) return code;
  const int64_t depth = shape.in_channels / shape.group;
  code = check_tensor("W", shape.out_channels, depth, shape.kernel_height, shape.kernel_width, status);
  if (code != EDGECONV_OK) return code;
  constexpr int64_t kMostTaps = 0x7fffffff / kLargestDifference;
  if (params.sums == EDGECONV_INTEGER_SUMS && depth * shape.kernel_height * shape.kernel_width > kMostTaps) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT,
                               "W has shape (%lld, %lld, %lld, %lld): a filter of more than %lld taps may overflow the "
                               "32 bits of its sum",
                               static_cast<long long>(shape.out_channels), static_cast<long long>(depth),
                               static_cast<long long>(shape.kernel_height), static_cast<long long>(shape.kernel_width),
                               static_cast<long long>(kMostTaps));
  }
  if (shape.out_height <= 0) return EDGECONV_OK;
  const bool nhwc = format.layout == EDGECONV_NHWC;
  // The workspace holds no more words than X has elements.
  code = check_tensor("X", shape.batch, nhwc ? format.x_channel_pitch : shape.in_channels, shape.in_height,
                      shape.in_width, status);
  if (code != EDGECONV_OK) return code;
  return check_tensor("Y", shape.batch, nhwc ? format.y_channel_pitch : shape.out_channels, shape.out_height,
                      shape.out_width, status);
}

}  // namespace

#endif  // EDGECONV_QLINEAR_KERVOLUTION_QLINEAR_KERVOLUTION_CUDA_CHECKS_H_
