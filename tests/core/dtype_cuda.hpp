// SPDX-License-Identifier: Apache-2.0
// The conversions of CUDA's headers as their host code does them, under the names of ours. Empty
// without the toolkit.
#pragma once

#ifdef DSV4_CUDA_HEADERS
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

namespace dsv4::cuda {

inline std::uint16_t bf16(float x) {
  return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
}
// Once, from float64: what a cast of a float64 tensor does not do.
inline std::uint16_t bf16_from_double(double x) {
  return static_cast<__nv_bfloat16_raw>(__double2bfloat16(x)).x;
}
inline std::uint8_t e4m3(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
inline std::uint8_t e2m1(float x) { return __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest); }
inline std::uint8_t e2m1_pair(float even, float odd) {
  return __nv_cvt_float2_to_fp4x2({even, odd}, __NV_E2M1, cudaRoundNearest);
}
inline std::uint8_t e8m0(float x) {
  return __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundPosInf);
}

}  // namespace dsv4::cuda
#endif
