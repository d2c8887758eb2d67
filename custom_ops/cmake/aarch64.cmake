# Toolchain for 64-bit Arm Linux (Jetson, Raspberry Pi, …) on any other machine:
#
#   cmake -S custom_ops -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake
#
# Another compiler than aarch64-linux-gnu-g++ is given as -DCMAKE_CXX_COMPILER=…. What it links in decides the oldest
# glibc that the library loads with: GCC 12 of Debian 12 asks for 2.35, which Ubuntu 22.04 and so JetPack 6 have.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

if(NOT CMAKE_CXX_COMPILER)
  find_program(EDGECONV_AARCH64_CXX NAMES aarch64-linux-gnu-g++ DOC "A C++ compiler for aarch64")
  mark_as_advanced(EDGECONV_AARCH64_CXX)
  if(NOT EDGECONV_AARCH64_CXX)
    message(FATAL_ERROR "No C++ compiler for aarch64 was found: install one (Debian, Ubuntu: apt-get install "
                        "g++-aarch64-linux-gnu), or set CMAKE_CXX_COMPILER.")
  endif()
  set(CMAKE_CXX_COMPILER "${EDGECONV_AARCH64_CXX}")
endif()
