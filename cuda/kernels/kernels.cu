// SPDX-License-Identifier: Apache-2.0
// The kernels at the true sizes (Flash: n = 4 streams, c = 512, r_d = 64, j = 128, 256 experts) as
// __global__ functions: what the static gates look at and scripts/gpu_check runs.
#include "cuda/kernels/compressor_cluster.hpp"
#include "cuda/kernels/gate.hpp"
#include "cuda/kernels/hadamard.hpp"
#include "cuda/kernels/linear_tiled.hpp"
#include "cuda/kernels/mhc_cluster.hpp"
#include "cuda/kernels/quantize.hpp"
#include "cuda/kernels/rms_norm.hpp"
#include "cuda/kernels/rope.hpp"

// The host's pass sees them too.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define DSV4_CLUSTERS
#endif

// BLOCKS: resident on a multiprocessor of 65,536 registers, so that THREADS * BLOCKS of them run.
#define DSV4_GLOBAL(NAME, THREADS, BLOCKS, ARGS, ...)                                       \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) dsv4_##NAME(const ARGS a) { \
    dsv4::kernels::__VA_ARGS__(a);                                                          \
  }

using dsv4::kernels::AttentionInputArgs;
using dsv4::kernels::CompressorArgs;
using dsv4::kernels::E2m1Weight;
using dsv4::kernels::E4m3Weight;
using dsv4::kernels::Fp4;
using dsv4::kernels::Fp8;
using dsv4::kernels::GateArgs;
using dsv4::kernels::HadamardArgs;
using dsv4::kernels::IndexQueryArgs;
using dsv4::kernels::LinearArgs;
using dsv4::kernels::MhcArgs;
using dsv4::kernels::QuantizeArgs;
using dsv4::kernels::RmsNormArgs;

DSV4_GLOBAL(quantize_fp8_128, 128, 16, QuantizeArgs, quantize<Fp8, 128>)
DSV4_GLOBAL(quantize_fp8_64, 128, 16, QuantizeArgs, quantize<Fp8, 64>)
DSV4_GLOBAL(quantize_fp4_32, 128, 16, QuantizeArgs, quantize<Fp4, 32>)
DSV4_GLOBAL(rms_norm, 128, 5, RmsNormArgs, rms_norm)
DSV4_GLOBAL(mhc, 128, 4, MhcArgs, mhc<4>)
#ifdef DSV4_CLUSTERS
DSV4_GLOBAL(mhc_cluster, 512, 1, MhcArgs, mhc_cluster<4>)
DSV4_GLOBAL(compress_hca_cluster, 256, 3, CompressorArgs, compress_cluster<512, 64>)
#endif
DSV4_GLOBAL(hadamard, 128, 16, HadamardArgs, hadamard<128>)
DSV4_GLOBAL(attention_inputs, 256, 4, AttentionInputArgs, attention_inputs<512, 64>)
DSV4_GLOBAL(index_queries, 256, 8, IndexQueryArgs, index_queries<128, 64>)
DSV4_GLOBAL(compress_csa, 128, 6, CompressorArgs, compress<true, false, 512, 64>)
DSV4_GLOBAL(compress_hca, 128, 8, CompressorArgs, compress<false, false, 512, 64>)
DSV4_GLOBAL(compress_index, 128, 8, CompressorArgs, compress<true, true, 128, 64>)
DSV4_GLOBAL(gate, 128, 8, GateArgs, gate<12>)
DSV4_GLOBAL(linear_e4m3, 128, 8, LinearArgs, linear<E4m3Weight>)
DSV4_GLOBAL(linear_e2m1, 128, 8, LinearArgs, linear<E2m1Weight>)
DSV4_GLOBAL(linear_tiled_e4m3, 128, 8, LinearArgs, linear_tiled<E4m3Weight>)
DSV4_GLOBAL(linear_tiled_e2m1, 128, 8, LinearArgs, linear_tiled<E2m1Weight>)
