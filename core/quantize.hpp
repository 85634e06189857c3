// SPDX-License-Identifier: Apache-2.0
// Quantising activations as the official kernels act_quant and fp4_act_quant do: one power-of-two
// scale a block, values rounded to E4M3 or E2M1. Exact numerics never calls this; weights come
// quantised and are only decoded (dequantize.cpp).
//
//   a = max(max|x|, floor)           s = 2^ceil(log2(a / largest))
//   q = round(clamp(x / s, +-largest))       value = q s
#pragma once

#include <cstdint>

#include "core/dtype.hpp"
#include "core/rounding.hpp"

namespace dsv4 {

// One scale for `block` values, each of them coded as `code`.
struct BlockFormat {
  DType code;     // F8_E4M3, or I8 standing for E2M1 as in checkpoints
  int block;      // values that share a scale
  float largest;  // of the code
  float floor;    // a block is scaled as if it had a value of this magnitude
};

inline constexpr BlockFormat kFp8Block128{DType::F8_E4M3, 128, 448.0F, 1e-4F};  // before products
inline constexpr BlockFormat kFp8Block64{DType::F8_E4M3, 64, 448.0F, 1e-4F};    // cached entries
inline constexpr BlockFormat kFp4Block32{DType::I8, 32, 6.0F, 6 * 0x1p-126F};   // the indexer

// The E8M0 scale byte of a block whose largest magnitude is amax: the float32 product
// max(amax, floor) * (1/largest), its exponent plus one when any mantissa bit is set. The product
// with the rounded reciprocal is the official one; it finds the same power of two as the quotient.
std::uint8_t block_scale(const BlockFormat& format, float amax);

// Quantises each block of the row and dequantises it in place; codes (one byte a value, also for
// E2M1) and scales (one byte a block) are written where not null. The official code requires rows
// of whole blocks; here a last partial block is allowed and is scaled by its own values.
// A BF16 input gives values that BF16 represents.
void quantize_dequantize(const BlockFormat& format, float* values, std::int64_t count,
                         std::uint8_t* codes = nullptr, std::uint8_t* scales = nullptr);

// The block format of a site; null: none.
const BlockFormat* block_format(Format format);

// How far each decision is from falling otherwise, in units of the values. margins[i]: from value i
// to where its code changes (the sign of a zero apart); scale_margins: from each block's largest
// magnitude to where its scale does. Either may be null.
void quantization_margins(const BlockFormat& format, const float* values, std::int64_t count,
                          double* margins, double* scale_margins);

}  // namespace dsv4
