# Finds ONNX Runtime's C API headers, API 21 or later, and makes the target onnxruntime_headers. In order:
# ONNXRUNTIME_ROOT (variable or environment), the system include path, then what scripts/ort_headers.sh can download
# (kept in the build directory).
include_guard()

set(ONNXRUNTIME_ROOT "$ENV{ONNXRUNTIME_ROOT}" CACHE PATH "Directory of an unpacked ONNX Runtime release")
set(_suffixes . include include/onnxruntime include/onnxruntime/core/session onnxruntime
    onnxruntime/core/session core/session)

if(ONNXRUNTIME_ROOT)
  find_path(EDGECONV_ORT_INCLUDE_DIR onnxruntime_c_api.h PATHS "${ONNXRUNTIME_ROOT}" PATH_SUFFIXES ${_suffixes}
            NO_DEFAULT_PATH)
  if(NOT EDGECONV_ORT_INCLUDE_DIR)
    message(FATAL_ERROR "ONNXRUNTIME_ROOT is ${ONNXRUNTIME_ROOT}, where there is no include/onnxruntime_c_api.h: "
                        "set it to an unpacked onnxruntime release archive, or unset it.")
  endif()
else()
  find_path(EDGECONV_ORT_INCLUDE_DIR onnxruntime_c_api.h PATH_SUFFIXES ${_suffixes})
endif()
mark_as_advanced(EDGECONV_ORT_INCLUDE_DIR)

# Sets `result` to the ORT_API_VERSION of the header in `directory`.
function(edgeconv_ort_api_version directory result)
  file(STRINGS "${directory}/onnxruntime_c_api.h" line REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE ".*ORT_API_VERSION ([0-9]+).*" "\\1" version "${line}")
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

set(_least_api 21)
if(EDGECONV_ORT_INCLUDE_DIR)
  edgeconv_ort_api_version("${EDGECONV_ORT_INCLUDE_DIR}" _api)
  if(_api LESS _least_api)
    if(ONNXRUNTIME_ROOT)
      message(FATAL_ERROR "The headers in ONNXRUNTIME_ROOT (${ONNXRUNTIME_ROOT}) have API version ${_api}: "
                          "set it to an ONNX Runtime release of version 1.${_least_api} or later.")
    endif()
    message(STATUS "ONNX Runtime headers in ${EDGECONV_ORT_INCLUDE_DIR} have API version ${_api}: looking for "
                   "${_least_api} or later")
    unset(EDGECONV_ORT_INCLUDE_DIR CACHE)
  endif()
endif()

if(NOT EDGECONV_ORT_INCLUDE_DIR)
  message(STATUS "Downloading ONNX Runtime's C API headers")
  execute_process(
    COMMAND "${CMAKE_CURRENT_LIST_DIR}/../../scripts/ort_headers.sh" "${CMAKE_BINARY_DIR}/onnxruntime"
    RESULT_VARIABLE _result OUTPUT_VARIABLE _directory ERROR_VARIABLE _error OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT _result EQUAL 0)
    message(FATAL_ERROR "${_error}")
  endif()
  set(EDGECONV_ORT_INCLUDE_DIR "${_directory}" CACHE PATH "Directory of onnxruntime_c_api.h" FORCE)
endif()

edgeconv_ort_api_version("${EDGECONV_ORT_INCLUDE_DIR}" _api)
message(STATUS "ONNX Runtime headers: ${EDGECONV_ORT_INCLUDE_DIR} (API ${_api}, used as ${_least_api})")
add_library(onnxruntime_headers INTERFACE)
target_include_directories(onnxruntime_headers SYSTEM INTERFACE "${EDGECONV_ORT_INCLUDE_DIR}")
