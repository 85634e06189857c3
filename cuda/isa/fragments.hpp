// SPDX-License-Identifier: Apache-2.0
// Who holds which element: the fragment tables of the PTX ISA as functions, for the emulator, for
// kernels' index arithmetic and for the tests that compare the two.
//
// For mma m16n8kK with operands of so many bytes a lane's 32-bit register i holds 4/bytes elements.
#pragma once

#include "cuda/isa/types.hpp"

namespace dsv4::isa {

struct Place {
  int row;
  int column;
};

// A[16, k]: registers 0…3; `part` counts the elements of one register.
DSV4_BOTH constexpr Place mma_a(int lane, int reg, int part, int bytes) {
  const int per = 4 / bytes;
  return {lane / 4 + (reg & 1) * 8, (lane % 4) * per + part + (reg >> 1) * 4 * per};
}
// B[k, 8]: registers 0, 1.
DSV4_BOTH constexpr Place mma_b(int lane, int reg, int part, int bytes) {
  const int per = 4 / bytes;
  return {(lane % 4) * per + part + reg * 4 * per, lane / 4};
}
// C, D[16, 8]: float registers 0…3.
DSV4_BOTH constexpr Place mma_d(int lane, int reg) {
  return {lane / 4 + (reg >> 1) * 8, (lane % 4) * 2 + (reg & 1)};
}
// D[64, n] of wgmma: float registers 0…n/2 of thread 0…127.
DSV4_BOTH constexpr Place wgmma_d(int thread, int reg) {
  const int lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + ((reg >> 1) & 1) * 8,
          reg / 4 * 8 + (lane % 4) * 2 + (reg & 1)};
}

// The 16-byte chunk at which chunk `c` of row `r` stands, in rows of 128 bytes: eight lanes that
// read one chunk each of eight consecutive rows touch all 32 banks.
DSV4_BOTH constexpr int swizzle128(int r, int c) { return c ^ (r & 7); }

// Where byte `b` of row `r` of a tile lies that TMA copies; with the swizzle rows have 128 bytes.
DSV4_BOTH constexpr int tma_place(int r, int b, int row_bytes, bool swizzled) {
  const int chunk = swizzled ? swizzle128(r, b / 16) : b / 16;
  return r * row_bytes + chunk * 16 + b % 16;
}

// Where the 16 bytes lie that a wgmma takes as chunk `c` (along k) of row `r` of an operand, in the
// same bytes as the descriptor's start. The pattern of the swizzle belongs to the address, so that
// the start may lie within a row.
DSV4_BOTH constexpr int wgmma_place(int start, int leading, int stride, bool swizzled, int r,
                                    int c) {
  if (!swizzled) return start + r / 8 * stride + c * leading + r % 8 * 16;
  const int plain = start + r / 8 * stride + r % 8 * 128 + c * 16;
  return plain ^ (plain >> 7 & 7) << 4;
}

}  // namespace dsv4::isa
