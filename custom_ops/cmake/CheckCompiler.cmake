# No C++ compiler: one sentence with the remedy, instead of CMake's own page about it.
include_guard()

if(NOT CMAKE_TOOLCHAIN_FILE AND NOT CMAKE_CXX_COMPILER AND NOT DEFINED ENV{CXX})
  find_program(EDGECONV_CXX NAMES c++ g++ clang++ DOC "A C++ compiler")
  mark_as_advanced(EDGECONV_CXX)
  if(NOT EDGECONV_CXX)
    message(FATAL_ERROR "No C++ compiler was found: install one (Debian, Ubuntu: apt-get install g++), or set CXX.")
  endif()
endif()
