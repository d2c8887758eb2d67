#include "common/status.h"

#include <cstdarg>
#include <cstdio>

extern "C" int edgeconv_set_status(EdgeconvStatus* status, int code, const char* format, ...) {
  status->code = code;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(status->message, sizeof(status->message), format, arguments);
  va_end(arguments);
  return code;
}
