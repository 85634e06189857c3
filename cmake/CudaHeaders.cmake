# SPDX-License-Identifier: Apache-2.0
# CUDA's conversion headers, a witness of ours: their host functions need a toolkit (12.8 or newer, for
# cuda_fp4.h) but no GPU and no nvcc. Nothing depends on them but tests/core and the program check_formats.
find_package(CUDAToolkit QUIET)
find_file(DSV4_CUDA_FP4_HEADER cuda_fp4.h PATHS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)

# dsv4_cuda_headers(target): target may include them and knows it by DSV4_CUDA_HEADERS.
function(dsv4_cuda_headers target)
  if(DSV4_CUDA_FP4_HEADER)
    target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    target_compile_definitions(${target} PRIVATE DSV4_CUDA_HEADERS)
  endif()
endfunction()
