# No CUDA compiler: one sentence, and the CPU operators are built all the same.
include_guard()

find_program(EDGECONV_NVCC NAMES nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin DOC "The CUDA compiler")
mark_as_advanced(EDGECONV_NVCC)
if(NOT EDGECONV_NVCC)
  message(STATUS "No nvcc was found: the CPU operators are built without it, and the GPU operators, which are planned, "
                 "will need CUDA 12.6 or later.")
endif()
