// A program of a right kernel and a wrong one, for machines without Python. With an argument it also leaks memory, so
// that a test of leaks can fail.
#include <cuda_fp16.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "common/simt/settings.h"

extern "C" int gemm_pipelined(const __half* a, const __half* b, float* c, int m, int n, int k);
extern "C" int fault(const char* name, const float* from, float* to);

int main(int count, char**) {
  const int m = 70, n = 72, k = 88;
  std::vector<__half> a(m * k), b(n * k);
  for (int i = 0; i < m * k; ++i) a[i] = __float2half(static_cast<float>(i * 7 % 13 - 6));
  for (int i = 0; i < n * k; ++i) b[i] = __float2half(static_cast<float>(i * 5 % 11 - 5));
  std::vector<float> c(m * n);
  bool right = gemm_pipelined(a.data(), b.data(), c.data(), m, n, k) == 0;
  for (int row = 0; row < m; ++row) {
    for (int column = 0; column < n; ++column) {
      float sum = 0.0f;  // of integers: exact
      for (int i = 0; i < k; ++i) sum += __half2float(a[row * k + i]) * __half2float(b[column * k + i]);
      right = right && c[row * n + column] == sum;
    }
  }
  printf("the product is %s\n", right ? "right" : "wrong");

  std::vector<float> from(300), to(65);
  const int code = fault("barrier_after_return", from.data(), to.data());
  printf("the error is %s\n", code != 0 && edgeconv_simt_last_error()[0] != '\0' ? "reported" : "not seen");
  if (count > 1) {
    void* volatile leaked = malloc(100);
    leaked = nullptr;
    static_cast<void>(leaked);
  }
  return 0;
}
