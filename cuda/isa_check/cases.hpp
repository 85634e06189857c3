// SPDX-License-Identifier: Apache-2.0
// All cases, as a list of types.
#pragma once

#include "cuda/isa_check/cases_hopper.hpp"
#include "cuda/isa_check/cases_scalar.hpp"

namespace dsv4::isa_check {

template <class... Cases>
struct List {};

using AllCases =
    List<scalar_fma, scalar_add, scalar_sub, scalar_mul, scalar_div, scalar_sqrt, scalar_max,
         scalar_min, scalar_abs, scalar_below_infinity, scalar_power_of_two, scalar_int_max,
         scalar_int_min, scalar_opaque, math_exp2, math_exp, math_log2, math_rsqrt, math_sigmoid,
         math_sin, math_cos, math_exp2_bits, math_exp_bits, math_log2_bits, math_rsqrt_bits,
         math_sigmoid_bits, math_sin_bits, math_cos_bits, to_bf16, to_bf16_floats, round_bf16,
         from_bf16, unpack_bf16, to_e4m3, to_e4m3_floats, to_e2m1, to_e2m1_floats, to_e8m0,
         from_e4m3, from_e2m1, from_e8m0, memory_1_byte, memory_2_bytes, memory_4_bytes,
         memory_8_bytes, memory_16_bytes, memory_prefetched, memory_static, indices, atomics,
         barriers_named, shuffles, sync_warp, copy_async_4, copy_async_8, copy_async_16, ldmatrix,
         mma_bf16, mma_bf16_wide, mma_bf16_bits, mma_e4m3, mma_e4m3_bits, mma_tf32, mma_tf32_bits,
         mma_bf16_tiny, mma_tf32_tiny, mbarrier, tma_load, tma_store, tma_multicast, cluster_memory,
         setmaxnreg, wgmma_bf16_n8, wgmma_bf16_n64, wgmma_bf16_n128, wgmma_bf16_plain,
         wgmma_bf16_tiny, wgmma_bf16_bits, wgmma_e4m3_n8, wgmma_e4m3_n64, wgmma_e4m3_n128,
         wgmma_e4m3_plain, wgmma_e4m3_bits>;

}  // namespace dsv4::isa_check
