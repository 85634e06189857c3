// SPDX-License-Identifier: Apache-2.0
// The sums of tensor cores, bit for bit as published models have them (arXiv 2511.10909 and
// 2512.07004): products are exact; they and the accumulator are aligned to the largest exponent and
// cut off below so many fractional bits; the exact sum of what is left is cut off to the output.
// Not confirmed on a GPU by this project until dsv4-isa-check has run on one.
//
//   unit                        block of k   fractional bits   output
//   Ampere mma BF16, TF32       8, 4         24                float32, towards zero
//   Hopper mma BF16, TF32       16, 8        25                float32, towards zero
//   Hopper mma E4M3             32           25                float32, towards zero
//   Ada mma E4M3 (as Ampere)    16           13                13 fractional bits, towards zero
//   Hopper wgmma BF16           16           25                float32, towards zero
//   Hopper wgmma E4M3           32           13                13 fractional bits, towards zero
#pragma once

#include <cstdint>
#include <span>

#include "cuda/emulator/options.hpp"

namespace dsv4::emulator {

enum class Operand : std::uint8_t { bf16, e4m3, tf32 };
enum class Unit : std::uint8_t { mma, wgmma };

// An operand taken apart: value = m 2^(e - fraction bits of its format). Subnormals keep the
// smallest exponent; infinities and NaN are marked.
struct Part {
  std::int32_t m;
  std::int16_t e;
  bool finite;
};

Part take_apart(Operand format, std::uint32_t bits);
float value_of(Operand format, std::uint32_t bits);

// a . b + c over one instruction's k, with `core`'s arithmetic.
float dot(TensorCore core, Unit unit, Operand format, std::span<const Part> a,
          std::span<const Part> b, float c);

}  // namespace dsv4::emulator
