// SPDX-License-Identifier: Apache-2.0
// Number formats of the official checkpoint: how many bytes, what a code means, and which code a
// float32 becomes. One readable definition per format and direction; the bulk paths in
// dequantize.cpp and quantize.cpp are tested bit for bit against them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/tensor.hpp"

namespace dsv4 {

// The dtypes that occur in safetensors files. I8 holds two E2M1 codes a byte where the manifest
// says so.
enum class DType : std::uint8_t {
  F64,
  F32,
  F16,
  BF16,
  F8_E4M3,
  F8_E8M0,
  I64,
  I32,
  I16,
  I8,
  U8,
  BOOL
};

std::string_view name(DType t);                       // "F8_E4M3", as in a safetensors header
bool parse_dtype(std::string_view text, DType& out);  // false: not a known name
std::size_t size_of(DType t);                         // bytes of one stored element

// bfloat16: the upper half of a float32.
float decode_bf16(std::uint16_t code);
// E4M3FN: bias 7, no infinity, 0x7f and 0xff are NaN, largest 448, smallest subnormal 2^-9.
float decode_e4m3(std::uint8_t code);
// E8M0: 2^(code-127); 0 is 2^-127, 255 is NaN. Never a number stored as a number.
float decode_e8m0(std::uint8_t code);
// E2M1, the low four bits of `code`: 0 .5 1 1.5 2 3 4 6, bit 3 is the sign (code 8 is -0).
// Two codes a byte: the LOW nibble is the even index.
float decode_e2m1(std::uint8_t code);

// The other direction. All round to nearest, ties to the even code, except E8M0; all keep -0.
// They are what the host functions of CUDA's headers compute, for every float32 (docs/formats.md).

// Overflow becomes infinity, as IEEE 754 has it. NaN stays NaN: the upper payload, made quiet.
std::uint16_t encode_bf16(float x);
// Saturating: whatever lies beyond +-448 becomes +-448, infinity too. Any NaN becomes 0x7f.
std::uint8_t encode_e4m3(float x);
// Saturating at +-6; there is no NaN, so any NaN becomes +6. The code is in the low four bits.
std::uint8_t encode_e2m1(float x);
// The smallest power of two that is not below |x|, at least 2^-127 (zero too), at most 2^127
// (infinity too); NaN is 255. Not to nearest: a scale too small would make its block saturate.
std::uint8_t encode_e8m0(float x);

// Two E2M1 codes a byte: the even index goes into the LOW nibble.
std::uint8_t pack_e2m1(std::uint8_t even, std::uint8_t odd);

// Real to float32 to BF16, each to nearest even, in this order and not in one step: it is what a
// tensor library does when it casts a float64 tensor to BF16, so it is what the official code run
// in float64 computes. The two roundings differ from one in one of 2^17 values; a value that
// is a float32 already is rounded once.
Real round_bf16(Real x);
void round_bf16(Real* values, std::int64_t count);  // the same, in place

}  // namespace dsv4
