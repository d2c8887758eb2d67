# Finds TensorRT's headers, 10.3 or later, and makes the target tensorrt_headers: TENSORRT_ROOT (variable or
# environment), then the system include path (JetPack's). No library is looked for: the plugins link none.
#
# EDGECONV_TENSORRT is AUTO (with the CUDA kernels, where the headers are found), ON or OFF.
include_guard()

set(EDGECONV_TENSORRT AUTO CACHE STRING "The TensorRT plugins: AUTO (where CUDA and TensorRT's headers are), ON or OFF")
set_property(CACHE EDGECONV_TENSORRT PROPERTY STRINGS AUTO ON OFF)
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "Directory of TensorRT, or of its headers")

set(_least_tensorrt 10.3)
set(_tensorrt_remedy "install libnvinfer-headers-dev, or set TENSORRT_ROOT to an unpacked TensorRT or to what \
scripts/tensorrt_headers.sh prints")

# With ON an error, with AUTO a sentence.
function(edgeconv_no_tensorrt)
  string(CONCAT why ${ARGN})
  if(EDGECONV_TENSORRT STREQUAL "AUTO")
    message(STATUS "${why}: the TensorRT plugins are not built.")
  else()
    message(FATAL_ERROR "EDGECONV_TENSORRT is ${EDGECONV_TENSORRT}, but: ${why}.")
  endif()
endfunction()

# Sets `result` to the version that NvInferVersion.h in `directory` states, such as 10.3.
function(edgeconv_tensorrt_version directory result)
  file(STRINGS "${directory}/NvInferVersion.h" lines REGEX "^#define (NV_TENSORRT|TRT)_M(AJOR|INOR)(_ENTERPRISE)? +[0-9]")
  set(version "")
  foreach(part MAJOR MINOR)
    string(REGEX MATCH "_${part}[A-Z_]* +([0-9]+)" found "${lines}")
    list(APPEND version "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN version "." version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

function(edgeconv_find_tensorrt)
  set(EDGECONV_HAVE_TENSORRT FALSE PARENT_SCOPE)
  if(NOT EDGECONV_TENSORRT STREQUAL "AUTO" AND NOT EDGECONV_TENSORRT)
    return()
  endif()
  if(NOT EDGECONV_CUDA_BACKEND)
    if(NOT EDGECONV_TENSORRT STREQUAL "AUTO")
      edgeconv_no_tensorrt("they need the CUDA kernels. Set EDGECONV_CUDA=ON to see what is missing")
    endif()
    return()
  endif()
  if(TENSORRT_ROOT)
    find_path(directory NvInferRuntime.h PATHS "${TENSORRT_ROOT}" PATH_SUFFIXES . include NO_DEFAULT_PATH NO_CACHE)
    if(NOT directory)
      message(FATAL_ERROR "TENSORRT_ROOT is ${TENSORRT_ROOT}, where there is no include/NvInferRuntime.h: "
                          "${_tensorrt_remedy}; or unset it.")
    endif()
  else()
    find_path(directory NvInferRuntime.h NO_CACHE)
    if(NOT directory)
      edgeconv_no_tensorrt("TensorRT's headers were not found (${_tensorrt_remedy})")
      return()
    endif()
  endif()
  edgeconv_tensorrt_version("${directory}" version)
  if(version VERSION_LESS _least_tensorrt)
    edgeconv_no_tensorrt("the headers in ${directory} are of TensorRT ${version}, and ${_least_tensorrt} or later is "
                         "needed (${_tensorrt_remedy})")
    return()
  endif()
  message(STATUS "TensorRT headers: ${directory} (${version})")
  add_library(tensorrt_headers INTERFACE)
  target_include_directories(tensorrt_headers SYSTEM INTERFACE "${directory}")
  set(EDGECONV_HAVE_TENSORRT TRUE PARENT_SCOPE)
endfunction()

edgeconv_find_tensorrt()
