// SPDX-License-Identifier: Apache-2.0
// Types and markers that kernel bodies share between nvcc and g++. No operation stands here.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define DSV4_DEVICE __device__ __forceinline__
#define DSV4_BOTH __host__ __device__ __forceinline__
#define DSV4_ISA device
#else
#define DSV4_DEVICE inline
#define DSV4_BOTH inline
#define DSV4_ISA emulated
#endif

// A loop that must not survive: its index selects registers.
#ifdef __CUDACC__
#define DSV4_UNROLL _Pragma("unroll")
#else
#define DSV4_UNROLL
#endif

namespace dsv4::isa {

// A stored BF16. Arithmetic happens in float: isa::to_float, isa::to_bf16.
struct Bf16 {
  std::uint16_t bits;
};

// Words that one instruction moves.
struct alignas(8) Words2 {
  std::uint32_t w[2];
};
struct alignas(16) Words4 {
  std::uint32_t w[4];
};

// Where a wgmma operand lies in shared memory, as the hardware encodes it (PTX ISA, "Matrix
// Descriptor Format").
using Descriptor = std::uint64_t;

// Two-dimensional tensors that TMA copies tiles of. On a GPU these are the 128 bytes that
// cuTensorMapEncodeTiled fills; the emulator keeps plain fields in them.
struct alignas(64) TensorMap {
  std::uint64_t opaque[16];
};

inline constexpr int kWarp = 32;
inline constexpr int kWarpgroup = 128;

}  // namespace dsv4::isa
