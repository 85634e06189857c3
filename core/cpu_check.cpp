// SPDX-License-Identifier: Apache-2.0
// Compiled for the oldest x86-64; includes nothing whose inline functions other files might share.
#include "core/cpu_check.hpp"

namespace dsv4 {

const char* cpu_problem() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") == 0 || __builtin_cpu_supports("fma") == 0 ||
      __builtin_cpu_supports("bmi2") == 0) {
    return "this program was built for x86-64-v3 (AVX2, FMA, BMI2; Haswell or Zen and later), "
           "which this "
           "processor lacks; build it with: cmake --preset release -DDSV4_MARCH=x86-64";
  }
#endif
  return nullptr;
}

}  // namespace dsv4
