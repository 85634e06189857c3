// SPDX-License-Identifier: Apache-2.0
// Every operation that a kernel body may use. Under nvcc each is one instruction, inlined; under
// g++ each is one step of the emulated GPU (cuda/emulator), which checks what hardware leaves
// undefined. Bodies use nothing else: no inline PTX, no threadIdx, no shuffles of CUDA's own, no
// __shared__ (tests/cuda/test_source_rules.py).
//
// clang-format off
//   indices     thread() lane() warp() threads() block_x() block_y() grid_x()
//   shared      dynamic_shared<T>() static_shared<T, id>() ld_shared st_shared atomic_add_shared
//   global      ld_global ld_stream (read once) prefetch st_global st_stream
//               atomic_add atomic_max: integers
//   barriers    sync sync_warp barrier_sync<n> barrier_arrive<n>
//   warp        shuffle shuffle_xor shuffle_down ballot any all
//   copies      copy_async copy_commit copy_wait<n>
//   matrices    ldmatrix ldmatrix_trans mma_bf16 mma_e4m3 mma_tf32
//   Hopper      mbarrier_* tma_* wgmma_* set_max_registers_* cluster_* ld_cluster st_cluster fence_*
//   scalars     scalar.hpp math.hpp convert.hpp
// clang-format on
//
// Conversions between number formats are no instructions but integer code: cvt knows E4M3 from
// sm_89 and E2M1 from sm_100 on alone, and turns every NaN into 0x7fff in BF16. So their bits are
// those of core/dtype, on every architecture.
#pragma once

#include "cuda/isa/convert.hpp"
#include "cuda/isa/fragments.hpp"
#include "cuda/isa/math.hpp"
#include "cuda/isa/types.hpp"

#ifdef __CUDACC__
#include "cuda/isa/device_core.hpp"
#include "cuda/isa/device_hopper.hpp"
#include "cuda/isa/device_mma.hpp"
#else
#include "cuda/isa/emulated_core.hpp"
#include "cuda/isa/emulated_hopper.hpp"
#include "cuda/isa/emulated_mma.hpp"
#endif
