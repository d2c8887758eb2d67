// What both families of kernels need checked, and which of them has the kernel.
#include "kervolution/kervolution_cuda.h"
#include "kervolution/kervolution_cuda_kernels.h"

namespace {

constexpr int64_t kElements = int64_t{1} << 31;  // kernels count in 32 bits

bool is_distance(const EdgeconvKervolutionParams& params) {
  return params.kernel == EDGECONV_MANHATTAN || params.kernel == EDGECONV_CHEBYSHEV;
}

// At most kElements, so that products of many sizes stay in 64 bits.
int64_t product(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_mul_overflow(a, b, &result) || result > kElements ? kElements : result;
}

int check_tensor(const char* name, int64_t items, int64_t channels, int64_t height, int64_t width,
                 EdgeconvStatus* status) {
  if (product(product(product(items, channels), height), width) < kElements) return EDGECONV_OK;
  return edgeconv_set_status(status, EDGECONV_UNSUPPORTED,
                             "the CUDA kernels take tensors of fewer than 2^31 elements: %s has %lld x %lld x %lld x "
                             "%lld. Cut the batch or the image into parts",
                             name, static_cast<long long>(items), static_cast<long long>(channels),
                             static_cast<long long>(height), static_cast<long long>(width));
}

int check_format(const EdgeconvConvShape& shape, const EdgeconvCudaFormat& format, EdgeconvStatus* status) {
  if (format.layout != EDGECONV_NCHW && format.layout != EDGECONV_NHWC) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "layout %d is neither NCHW nor NHWC", format.layout);
  }
  if (format.math != EDGECONV_CUDA_FLOAT32 && format.math != EDGECONV_CUDA_TF32) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "arithmetic %d is neither float32 nor TF32",
                               format.math);
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

int check(const EdgeconvKervolutionParams& params, const EdgeconvCudaFormat& format, EdgeconvStatus* status) {
  const EdgeconvConvShape& shape = params.shape;
  if (params.element_type != EDGECONV_FLOAT32 && params.element_type != EDGECONV_FLOAT16) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "the CUDA kernels take float32 and float16");
  }
  if (params.kernel < EDGECONV_POLYNOMIAL || params.kernel > EDGECONV_CHEBYSHEV) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "there is no kernel %d", params.kernel);
  }
  if (params.kernel == EDGECONV_POLYNOMIAL && params.degree < 1) {
    return edgeconv_set_status(status, EDGECONV_INVALID_ARGUMENT, "degree is %lld, and must be at least 1",
                               static_cast<long long>(params.degree));
  }
  int code = check_format(shape, format, status);
  if (code != EDGECONV_OK) return code;
  code = check_tensor("W", shape.out_channels, shape.in_channels / shape.group, shape.kernel_height, shape.kernel_width,
                      status);
  if (code != EDGECONV_OK || shape.out_height <= 0) return code;
  const bool nhwc = format.layout == EDGECONV_NHWC;
  code = check_tensor("X", shape.batch, nhwc ? format.x_channel_pitch : shape.in_channels, shape.in_height,
                      shape.in_width, status);
  if (code != EDGECONV_OK) return code;
  return check_tensor("Y", shape.batch, nhwc ? format.y_channel_pitch : shape.out_channels, shape.out_height,
                      shape.out_width, status);
}

}  // namespace

extern "C" {

int edgeconv_kervolution_cuda_plan(const EdgeconvKervolutionParams* params, const EdgeconvCudaFormat* format,
                                   const EdgeconvCudaDevice* device, EdgeconvKervolutionCudaPlan* plan,
                                   EdgeconvStatus* status) {
  *plan = {};
  plan->format = *format;
  plan->splits = 1;
  const int code = check(*params, *format, status);
  if (code != EDGECONV_OK) return code;
  status->code = EDGECONV_OK;
  return is_distance(*params) ? edgeconv_kervolution_distance_cuda_plan(params, format, device, plan, status)
                              : edgeconv_kervolution_dot_cuda_plan(params, format, device, plan, status);
}

int edgeconv_kervolution_cuda_pack(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                   const void* w, void* packed, void* stream, EdgeconvStatus* status) {
  status->code = EDGECONV_OK;
  return is_distance(*params) ? edgeconv_kervolution_distance_cuda_pack(params, plan, w, packed, stream, status)
                              : edgeconv_kervolution_dot_cuda_pack(params, plan, w, packed, stream, status);
}

int edgeconv_kervolution_cuda_run(const EdgeconvKervolutionParams* params, const EdgeconvKervolutionCudaPlan* plan,
                                  const EdgeconvKervolutionCudaArguments* arguments, void* stream,
                                  EdgeconvStatus* status) {
  status->code = EDGECONV_OK;
  const EdgeconvConvShape& shape = params->shape;
  if (shape.batch * shape.out_height * shape.out_width * shape.out_channels == 0) return EDGECONV_OK;
  return is_distance(*params) ? edgeconv_kervolution_distance_cuda_run(params, plan, arguments, stream, status)
                              : edgeconv_kervolution_dot_cuda_run(params, plan, arguments, stream, status);
}

}  // extern "C"
