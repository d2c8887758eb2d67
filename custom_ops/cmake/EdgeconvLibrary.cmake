# What CMakeLists.txt is written with: edgeconv_common, edgeconv_operator, edgeconv_ort_library, edgeconv_trt_library.
include_guard()
include(CheckCXXCompilerFlag)
include("${CMAKE_CURRENT_LIST_DIR}/EdgeconvCuda.cmake")

set(EDGECONV_AVX2_FLAGS -mavx2 -mfma -mf16c)
# GCC's own AVX-512 header trips this warning (GCC bug 105593).
set(EDGECONV_AVX512_FLAGS -mavx512f -mavx512vl -mavx512dq -mavx512bw -mavx2 -mfma -mf16c -Wno-maybe-uninitialized
                          -Wno-uninitialized)
set(EDGECONV_AVX512_VNNI_FLAGS -mavx512vnni ${EDGECONV_AVX512_FLAGS})
set(EDGECONV_AMX_FLAGS -mamx-tile -mamx-bf16 -mamx-int8 -mavx512bf16 ${EDGECONV_AVX512_VNNI_FLAGS})
set(EDGECONV_X86_ISAS avx2 avx512 avx512_vnni amx)
# GCC's scheduler before register allocation loads all weights of a register tile ahead and spills the sums.
set(EDGECONV_NEON_FLAGS $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
set(EDGECONV_NEON_DOTPROD_FLAGS -march=armv8.2-a+dotprod ${EDGECONV_NEON_FLAGS})
set(EDGECONV_ARM_ISAS neon neon_dotprod)
# Of an operator: its bytes are defined by float32 steps that are rounded one by one.
set(EDGECONV_QLINEAR_KERVOLUTION_FLAGS -ffp-contract=off)
set(EDGECONV_QLINEAR_MOBILE_FLAGS -ffp-contract=off)

# Kernels: everything that knows no runtime.
add_library(edgeconv_kernels OBJECT)
# Glue to ONNX Runtime.
add_library(edgeconv_ort SHARED)
set(_targets edgeconv_kernels edgeconv_ort)
# Glue to TensorRT.
file(GLOB EDGECONV_TRT_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/trt_library.cc"
     "${PROJECT_SOURCE_DIR}/common/trt_*.cc")
if(EDGECONV_HAVE_TENSORRT AND EDGECONV_TRT_SOURCES)
  add_library(edgeconv_trt SHARED ${EDGECONV_TRT_SOURCES})
  list(APPEND _targets edgeconv_trt)
endif()
if(EDGECONV_CUDA_BACKEND STREQUAL "simt")
  list(APPEND _targets edgeconv_cuda)
endif()

foreach(_target IN LISTS _targets)
  target_compile_features(${_target} PRIVATE cxx_std_17)
  target_include_directories(${_target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_compile_options(${_target} PRIVATE -Wall -Wextra)
  set_target_properties(${_target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON
                        CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(EDGECONV_SANITIZE)
    target_compile_options(${_target} PRIVATE -fsanitize=${EDGECONV_SANITIZE} -fno-omit-frame-pointer -g)
  endif()
endforeach()
if(EDGECONV_SOFTWARE_TILES)
  set(_software_tiles "${PROJECT_SOURCE_DIR}/../tests/native")
  if(NOT EXISTS "${_software_tiles}/software_tiles.h")
    message(FATAL_ERROR "EDGECONV_SOFTWARE_TILES needs tests/native/software_tiles.h: build in a checkout, or without it.")
  endif()
  message(WARNING "AMX tiles are computed in software: this library is for tests, and slow.")
  target_compile_definitions(edgeconv_kernels PRIVATE EDGECONV_SOFTWARE_TILES)
  target_include_directories(edgeconv_kernels PRIVATE "${_software_tiles}")
endif()
# Register tiles live on unrolling: -O3 in every build type but Debug.
target_compile_options(edgeconv_kernels PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3>)

# edgeconv_common(name…): sources of common/ that know no runtime; common/*_cuda.cu come by themselves.
function(edgeconv_common)
  foreach(name IN LISTS ARGN)
    target_sources(edgeconv_kernels PRIVATE common/${name}.cc)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/common/*_cuda.cu")
  edgeconv_cuda_sources(have_cuda ${sources})
  set(EDGECONV_CUDA_OBJECTS "${EDGECONV_CUDA_OBJECTS}" PARENT_SCOPE)
endfunction()

# edgeconv_operator(name isa…): <name>/<name>_cpu.cc, <name>/<name>_ort.cc, and <name>/<name>_<isa>.cc for each
# instruction set of this processor architecture. <name>_cpu.cc finds EDGECONV_HAVE_<ISA> defined for each of them.
#
# With CUDA also <name>/<name>_cuda*.cu and <name>/<name>_ort_cuda.cc; <name>_ort.cc then finds EDGECONV_HAVE_CUDA
# defined. With TensorRT also <name>/<name>_trt.cc. Where those files are not, the operator has no such backend.
function(edgeconv_operator name)
  string(TOUPPER ${name} family)
  target_sources(edgeconv_kernels PRIVATE ${name}/${name}_cpu.cc)
  target_sources(edgeconv_ort PRIVATE ${name}/${name}_ort.cc)
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/${name}/${name}_cuda*.cu")
  edgeconv_cuda_sources(have_cuda ${sources})
  set(EDGECONV_CUDA_OBJECTS "${EDGECONV_CUDA_OBJECTS}" PARENT_SCOPE)
  if(have_cuda)
    set_property(SOURCE ${name}/${name}_ort.cc APPEND PROPERTY COMPILE_DEFINITIONS EDGECONV_HAVE_CUDA)
    if(EXISTS "${PROJECT_SOURCE_DIR}/${name}/${name}_ort_cuda.cc")
      target_sources(edgeconv_ort PRIVATE ${name}/${name}_ort_cuda.cc)
    endif()
    if(TARGET edgeconv_trt AND EXISTS "${PROJECT_SOURCE_DIR}/${name}/${name}_trt.cc")
      target_sources(edgeconv_trt PRIVATE ${name}/${name}_trt.cc)
    endif()
  endif()
  foreach(isa IN LISTS ARGN)
    if(isa IN_LIST EDGECONV_X86_ISAS AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
      continue()
    endif()
    if(isa IN_LIST EDGECONV_ARM_ISAS AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
      continue()
    endif()
    if(isa STREQUAL "amx")
      check_cxx_compiler_flag(-mamx-bf16 EDGECONV_COMPILER_KNOWS_AMX)
      if(NOT EDGECONV_COMPILER_KNOWS_AMX)
        message(STATUS "The compiler does not know AMX: ${name} is built without it (GCC 11 or Clang 12 would do)")
        continue()
      endif()
    endif()
    string(TOUPPER ${isa} upper)
    set_property(SOURCE ${name}/${name}_cpu.cc APPEND PROPERTY COMPILE_DEFINITIONS EDGECONV_HAVE_${upper})
    target_sources(edgeconv_kernels PRIVATE ${name}/${name}_${isa}.cc)
    set_source_files_properties(${name}/${name}_${isa}.cc PROPERTIES
                                COMPILE_OPTIONS "${EDGECONV_${upper}_FLAGS};${EDGECONV_${family}_FLAGS}")
  endforeach()
endfunction()

# A library that others load: only what `exports` names is visible; the C++ library comes along, because that of the
# device may be older. Installed into the package as edgeconv/lib.
function(edgeconv_loadable target exports)
  target_link_options(${target} PRIVATE "LINKER:--version-script=${PROJECT_SOURCE_DIR}/cmake/${exports}")
  set_target_properties(${target} PROPERTIES LINK_DEPENDS "${PROJECT_SOURCE_DIR}/cmake/${exports}")
  if(EDGECONV_SANITIZE)
    target_link_options(${target} PRIVATE -fsanitize=${EDGECONV_SANITIZE})
  else()
    target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc LINKER:--no-undefined LINKER:--as-needed
                        LINKER:--gc-sections)
  endif()
  install(TARGETS ${target} LIBRARY DESTINATION edgeconv/lib)
endfunction()

# The library for ONNX Runtime, libedgeconv_ort.so: RegisterCustomOps and the launch functions.
function(edgeconv_ort_library)
  target_sources(edgeconv_ort PRIVATE ort_library.cc common/ort_api.cc $<TARGET_OBJECTS:edgeconv_kernels>)
  if(EDGECONV_CUDA_OBJECTS OR EDGECONV_CUDA_BACKEND STREQUAL "simt")
    set_property(SOURCE ort_library.cc common/ort_api.cc APPEND PROPERTY COMPILE_DEFINITIONS EDGECONV_HAVE_CUDA)
    if(EXISTS "${PROJECT_SOURCE_DIR}/common/ort_cuda.cc")
      target_sources(edgeconv_ort PRIVATE common/ort_cuda.cc)
    endif()
  endif()
  target_link_libraries(edgeconv_ort PRIVATE onnxruntime_headers)
  edgeconv_link_cuda(edgeconv_ort)
  edgeconv_loadable(edgeconv_ort exports.map)
endfunction()

# The plugins for TensorRT, libedgeconv_trt.so, which links no TensorRT.
function(edgeconv_trt_library)
  if(NOT TARGET edgeconv_trt)
    return()
  endif()
  target_sources(edgeconv_trt PRIVATE $<TARGET_OBJECTS:edgeconv_kernels>)
  target_link_libraries(edgeconv_trt PRIVATE tensorrt_headers)
  edgeconv_link_cuda(edgeconv_trt)
  edgeconv_loadable(edgeconv_trt exports_trt.map)
endfunction()
