// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync on the emulator: 32 lanes meet and the last one computes from the fragment
// tables of the PTX ISA.
#pragma once

#include "cuda/emulator/tensor_core.hpp"
#include "cuda/isa/emulated_core.hpp"

namespace dsv4::isa {
inline namespace emulated {

void load_matrices(std::uint32_t* r, int count, const void* row, bool transposed, Where at);

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 and
// receives in r[m] the elements (l/4, 2(l%4)) and the next of matrix m; of its transpose.
inline void ldmatrix(std::uint32_t (&r)[4], const void* row, Where at = Where::current()) {
  load_matrices(r, 4, row, false, at);
}
inline void ldmatrix_trans(std::uint32_t (&r)[4], const void* row, Where at = Where::current()) {
  load_matrices(r, 4, row, true, at);
}
// Two matrices; the addresses of lanes 16…31 are not used.
inline void ldmatrix(std::uint32_t (&r)[2], const void* row, Where at = Where::current()) {
  load_matrices(r, 2, row, false, at);
}

void multiply(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1,
              emulator::Operand format, const char* operation, Where at);

// d[16, 8] += a[16, k] b[k, 8]; fragments.hpp says who holds what.
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                     Where at = Where::current()) {
  multiply(d, a, b0, b1, emulator::Operand::bf16, "mma.m16n8k16.bf16", at);
}
inline void mma_e4m3(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                     Where at = Where::current()) {
  multiply(d, a, b0, b1, emulator::Operand::e4m3, "mma.m16n8k32.e4m3", at);
}
inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                     Where at = Where::current()) {
  multiply(d, a, b0, b1, emulator::Operand::tf32, "mma.m16n8k8.tf32", at);
}

}  // namespace emulated
}  // namespace dsv4::isa
