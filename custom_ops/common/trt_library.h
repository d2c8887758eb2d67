// What an operator's glue offers to the plugin library: descriptions of its operators. See trt_library.cc.
#ifndef EDGECONV_COMMON_TRT_LIBRARY_H_
#define EDGECONV_COMMON_TRT_LIBRARY_H_

#include <vector>

#include "common/trt_plugin.h"

namespace edgeconv::trt {

// One function an operator family: appends its operators.
void append_kervolution(std::vector<Operator>& operators);
void append_qlinear_kervolution(std::vector<Operator>& operators);
void append_deconv_whitening(std::vector<Operator>& operators);

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_LIBRARY_H_
