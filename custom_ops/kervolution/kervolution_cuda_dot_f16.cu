// Kernels of x.w in float16, by tensor cores with float32 sums.
#include "kervolution/kervolution_cuda_dot_gemm.h"

extern "C" cudaError_t edgeconv_dot_gemm_f16(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream) {
  return launch_math<HalfMma>(problem, tile, stream);
}
