# What EdgeconvLibrary.cmake builds the GPU's half with. Device code is compiled once, into objects that libedgeconv_ort.so
# and libedgeconv_trt.so share; ptxas's report on registers and spills lies beside each object (<name>.ptxas.txt).
# Without CUDA these functions do nothing.
include_guard()

set(EDGECONV_CUDA_OBJECTS "")
set(_compile_cuda "${CMAKE_CURRENT_LIST_DIR}/CompileCuda.cmake")

if(EDGECONV_CUDA_BACKEND STREQUAL "simt")
  file(GLOB _simt_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/common/simt/*.cc")
  add_library(edgeconv_cuda OBJECT ${_simt_sources})
  target_compile_definitions(edgeconv_cuda PUBLIC EDGECONV_SIMT)
  target_compile_options(edgeconv_cuda PRIVATE -Wno-unknown-pragmas $<$<NOT:$<CONFIG:Debug>>:-O2>)
  target_link_libraries(edgeconv_cuda PUBLIC cuda_headers)
elseif(EDGECONV_CUDA_BACKEND STREQUAL "nvcc")
  set(_nvcc_options ${EDGECONV_NVCC_FLAGS} "-I${PROJECT_SOURCE_DIR}" -Xptxas=-v --threads=2
      -Xcompiler=-fPIC,-fvisibility=hidden,-Wall)
  if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" OR CMAKE_BUILD_TYPE STREQUAL "Debug")
    list(APPEND _nvcc_options -lineinfo -Xcompiler=-g)
  endif()
  if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    list(APPEND _nvcc_options -DNDEBUG)
  endif()
  # In a file, so that other options compile everything anew.
  list(JOIN _nvcc_options "\"\n\"" _nvcc_options)
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/cuda/options.txt" CONTENT "\"${_nvcc_options}\"\n" @ONLY)
endif()

# edgeconv_cuda_sources(result path…): adds those of the sources that exist; `result` says whether there are any.
function(edgeconv_cuda_sources result)
  set(${result} FALSE PARENT_SCOPE)
  foreach(source IN LISTS ARGN)
    if(NOT EDGECONV_CUDA_BACKEND OR NOT EXISTS "${PROJECT_SOURCE_DIR}/${source}")
      continue()
    endif()
    set(${result} TRUE PARENT_SCOPE)
    if(EDGECONV_CUDA_BACKEND STREQUAL "simt")
      target_sources(edgeconv_cuda PRIVATE "${PROJECT_SOURCE_DIR}/${source}")
      set_source_files_properties("${PROJECT_SOURCE_DIR}/${source}" PROPERTIES LANGUAGE CXX)
      continue()
    endif()
    string(REGEX REPLACE "\\.cu$" "" stem "${PROJECT_BINARY_DIR}/cuda/${source}")
    get_filename_component(directory "${stem}" DIRECTORY)
    file(MAKE_DIRECTORY "${directory}")
    add_custom_command(
      OUTPUT "${stem}.cu.o" BYPRODUCTS "${stem}.ptxas.txt"
      COMMAND "${CMAKE_COMMAND}" "-DREPORT=${stem}.ptxas.txt" -P "${_compile_cuda}" --
              "${EDGECONV_NVCC_TOOL}" --options-file "${PROJECT_BINARY_DIR}/cuda/options.txt" -MMD -MF "${stem}.d"
              -MT "${stem}.cu.o" -c "${PROJECT_SOURCE_DIR}/${source}" -o "${stem}.cu.o"
      DEPENDS "${PROJECT_SOURCE_DIR}/${source}" "${PROJECT_BINARY_DIR}/cuda/options.txt" "${_compile_cuda}"
      DEPFILE "${stem}.d" COMMENT "Compiling ${source} for ${EDGECONV_NVCC_NAMES}" VERBATIM)
    list(APPEND EDGECONV_CUDA_OBJECTS "${stem}.cu.o")
  endforeach()
  set(EDGECONV_CUDA_OBJECTS "${EDGECONV_CUDA_OBJECTS}" PARENT_SCOPE)
endfunction()

# edgeconv_link_cuda(target): the device code and what its glue is compiled and linked with.
function(edgeconv_link_cuda target)
  if(EDGECONV_CUDA_BACKEND STREQUAL "simt")
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:edgeconv_cuda>)
    target_link_libraries(${target} PRIVATE cuda_headers)
    target_compile_definitions(${target} PRIVATE EDGECONV_SIMT)
  elseif(EDGECONV_CUDA_OBJECTS)
    # Two targets may not run the same commands at the same time: both wait for a third.
    if(NOT TARGET edgeconv_cuda)
      add_custom_target(edgeconv_cuda DEPENDS ${EDGECONV_CUDA_OBJECTS})
      set_source_files_properties(${EDGECONV_CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    endif()
    add_dependencies(${target} edgeconv_cuda)
    target_sources(${target} PRIVATE ${EDGECONV_CUDA_OBJECTS})
    target_link_libraries(${target} PRIVATE cuda_headers)
  endif()
endfunction()
