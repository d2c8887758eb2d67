// How the TensorRT plugins report: messages through TensorRT's logger, exceptions that stay inside, and whether the
// TensorRT that loads the library is one that it was built for.
#ifndef EDGECONV_COMMON_TRT_LOG_H_
#define EDGECONV_COMMON_TRT_LOG_H_

#include <NvInferRuntime.h>

#include <exception>
#include <new>
#include <string>

#include "common/status.h"

namespace edgeconv::trt {

// A failure on its way to TensorRT.
struct Error {
  std::string message;
};

// Throws Error unless `code` is EDGECONV_OK.
void check(int code, const EdgeconvStatus& status);

// Keeps what finds the logger, and finds out the version of the TensorRT that it belongs to.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Whether the TensorRT in this process can run these plugins; where it cannot, a message says why.
bool is_supported_runtime() noexcept;

// Through TensorRT's logger; on standard error where there is none.
void log_error(const std::string& message) noexcept;

// Calls `body`; a failure is reported with `prefix` before it, and gives `failed`.
template <typename Prefix, typename Result, typename Body>
Result guarded(const Prefix& prefix, Result failed, const Body& body) noexcept {
  try {
    try {
      return body();
    } catch (const Error& error) {
      log_error(prefix() + error.message);
    } catch (const std::bad_alloc&) {
      log_error(prefix() + "out of host memory");
    } catch (const std::exception& error) {
      log_error(prefix() + error.what());
    }
  } catch (...) {
    // Not even the message could be made.
  }
  return failed;
}

}  // namespace edgeconv::trt

#endif  // EDGECONV_COMMON_TRT_LOG_H_
