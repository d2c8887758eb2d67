// What an operator's glue offers to the library: its OrtCustomOp objects. See ort_library.cc.
#ifndef EDGECONV_COMMON_ORT_LIBRARY_H_
#define EDGECONV_COMMON_ORT_LIBRARY_H_

#include <memory>
#include <vector>

#include "common/ort_api.h"

namespace edgeconv {

using CustomOps = std::vector<std::shared_ptr<OrtCustomOp>>;

// One function an operator family: appends its custom operators for this runtime.
void append_kervolution(const Runtime& runtime, CustomOps& ops);
void append_qlinear_kervolution(const Runtime& runtime, CustomOps& ops);
void append_deconv_whitening(const Runtime& runtime, CustomOps& ops);
void append_qlinear_mobile(const Runtime& runtime, CustomOps& ops);
void append_qlinear_pool(const Runtime& runtime, CustomOps& ops);

// The same operators on GPUs; only in builds with CUDA.
void append_kervolution_cuda(const Runtime& runtime, CustomOps& ops);
void append_qlinear_kervolution_cuda(const Runtime& runtime, CustomOps& ops);
void append_deconv_whitening_cuda(const Runtime& runtime, CustomOps& ops);

}  // namespace edgeconv

#endif  // EDGECONV_COMMON_ORT_LIBRARY_H_
