// Kernels of x.w in float32 whose factors are rounded to TF32, by tensor cores.
#include "kervolution/kervolution_cuda_dot_gemm.h"

extern "C" cudaError_t edgeconv_dot_gemm_tf32(const EdgeconvDotProblem& problem, int tile, cudaStream_t stream) {
  return launch_math<Tf32Mma>(problem, tile, stream);
}
