// SPDX-License-Identifier: Apache-2.0
// Number formats of the official checkpoint: how many bytes, and what a code means.
// One readable definition per format; the bulk path in weights.cpp is tested bit for bit against
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

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

}  // namespace dsv4
