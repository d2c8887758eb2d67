// How a kernel or a shape check reports a failure: a plain struct, so that it crosses C interfaces and needs no memory.
#ifndef EDGECONV_COMMON_STATUS_H_
#define EDGECONV_COMMON_STATUS_H_

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum EdgeconvStatusCode {
  EDGECONV_OK = 0,
  EDGECONV_INVALID_ARGUMENT = 1,  // shapes, attributes or parameters that do not fit
  EDGECONV_UNSUPPORTED = 2,       // valid, but not on this machine or in this build
  EDGECONV_OUT_OF_MEMORY = 3,
} EdgeconvStatusCode;

typedef struct EdgeconvStatus {
  int code;           // an EdgeconvStatusCode
  char message[508];  // empty when code is EDGECONV_OK
} EdgeconvStatus;

// Fills `status` in the manner of printf and returns `code`. A message that is too long is cut.
__attribute__((format(printf, 3, 4))) int edgeconv_set_status(EdgeconvStatus* status, int code, const char* format,
                                                              ...);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif  // EDGECONV_COMMON_STATUS_H_
