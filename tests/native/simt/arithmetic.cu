// Arithmetic that kernels use and C++ does not have: a thread an element, a row of results a function.
#include "common/cuda_device.h"

namespace {

// Of two words of four bytes and a number.
__global__ void bytes(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* to, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int row = 0;
  const auto put = [&](uint32_t value) { to[row++ * count + i] = value; };
  put(dot4<int8_t, int8_t>(a[i], b[i], c[i]));
  put(dot4<int8_t, uint8_t>(a[i], b[i], c[i]));
  put(dot4<uint8_t, int8_t>(a[i], b[i], c[i]));
  put(dot4<uint8_t, uint8_t>(a[i], b[i], c[i]));
  put(__dp4a(static_cast<int>(a[i]), static_cast<int>(b[i]), static_cast<int>(c[i])));
  put(__dp4a(a[i], b[i], c[i]));
  put(sad4<uint8_t>(a[i], b[i], c[i]));
  put(sad4<int8_t>(a[i], b[i], c[i]));
  put(__vsadu4(a[i], b[i]));
  put(__vabsdiffu4(a[i], b[i]));
  put(__vmaxu4(a[i], b[i]));
  put(__vmaxs4(a[i], b[i]));
  put(__byte_perm(a[i], b[i], c[i] & 0x7777));
  put(__funnelshift_r(a[i], b[i], c[i] % 32));
  put(__umulhi(a[i], b[i]));
  put(round_to_tf32(__uint_as_float(a[i])));
}

// Of pairs of halves.
__global__ void halves(const __half2* a, const __half2* b, const __half2* c, __half2* to, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int row = 0;
  const auto put = [&](__half2 value) { to[row++ * count + i] = value; };
  put(__hadd2(a[i], b[i]));
  put(__hsub2(a[i], b[i]));
  put(__hmul2(a[i], b[i]));
  put(__hfma2(a[i], b[i], c[i]));
  put(__habs2(__hsub2(a[i], b[i])));
  put(__hmax2(a[i], b[i]));
  put(__hmin2(a[i], b[i]));
}

}  // namespace

extern "C" int byte_functions(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* to, int count) {
  return EDGECONV_LAUNCH(bytes, dim3((count + 63) / 64), dim3(64), 0, nullptr, a, b, c, to, count);
}

extern "C" int half_functions(const __half2* a, const __half2* b, const __half2* c, __half2* to, int count) {
  return EDGECONV_LAUNCH(halves, dim3((count + 63) / 64), dim3(64), 0, nullptr, a, b, c, to, count);
}
