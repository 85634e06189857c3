# SPDX-License-Identifier: Apache-2.0
# Compiler flags of our own code, as the interface target dsv4_flags.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "g++ ${CMAKE_CXX_COMPILER_VERSION} is too old: dsv4 is C++20 and needs g++ 12.\n"
                      "Install it with:  sudo apt-get install g++-12  and configure with CXX=g++-12")
endif()

add_library(dsv4_flags INTERFACE)

# -ffp-contract=off: a product and a sum round twice unless the source says fma, so that results do not
# depend on what the optimiser sees. Eigen's matrix kernels use explicit FMA instructions all the same.
# CUDA files (DSV4_CUDA) have flags of their own: cuda/CMakeLists.txt.
set(cxx "$<COMPILE_LANGUAGE:CXX>")
target_compile_options(dsv4_flags INTERFACE $<${cxx}:-ffp-contract=off>)
if(DSV4_MARCH)
  target_compile_options(dsv4_flags INTERFACE $<${cxx}:-march=${DSV4_MARCH}>)
endif()

set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
             -Woverloaded-virtual -Wold-style-cast -Wduplicated-cond -Wlogical-op)
target_compile_options(dsv4_flags INTERFACE "$<${cxx}:${warnings}>")
if(DSV4_WARNINGS_AS_ERRORS)
  target_compile_options(dsv4_flags INTERFACE $<${cxx}:-Werror>)
endif()

if(DSV4_SANITIZE)
  target_compile_options(dsv4_flags INTERFACE -fsanitize=${DSV4_SANITIZE} -fno-omit-frame-pointer
                                              -fno-sanitize-recover=all)
  target_link_options(dsv4_flags INTERFACE -fsanitize=${DSV4_SANITIZE})
endif()

# Threads are ours: fixed tiles, so that their number cannot change a bit of any result.
target_compile_definitions(dsv4_flags INTERFACE EIGEN_DONT_PARALLELIZE)
