// SPDX-License-Identifier: Apache-2.0
// Block-wise quantisation of activations: a scalar definition in terms of dtype.cpp.
#include "core/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dsv4 {
namespace {

// The official kernels take maxima and clamp with instructions that return the other operand where
// one is NaN: a NaN does not raise the scale.
float largest_magnitude(const float* x, std::int64_t n) {
  float amax = 0;
  for (std::int64_t i = 0; i < n; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  return amax;
}

float clamp(float x, float largest) { return std::fmin(std::fmax(x, -largest), largest); }

// 2^(byte - 127) as the bit pattern of a float32; 255, which only an infinite amax gives, is
// infinity here and not E8M0's NaN.
float scale_value(std::uint8_t byte) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(byte) << 23);
}

void block(const BlockFormat& format, float scale, float* x, std::int64_t n, std::uint8_t* codes) {
  const bool fp8 = format.code == DType::F8_E4M3;
  for (std::int64_t i = 0; i < n; ++i) {
    const float y = clamp(x[i] / scale, format.largest);
    const std::uint8_t code = fp8 ? encode_e4m3(y) : encode_e2m1(y);
    x[i] = (fp8 ? decode_e4m3(code) : decode_e2m1(code)) * scale;
    if (codes != nullptr) codes[i] = code;
  }
}

}  // namespace

std::uint8_t block_scale(const BlockFormat& format, float amax) {
  const float ratio = std::fmax(amax, format.floor) * (1 / format.largest);
  const auto bits = std::bit_cast<std::uint32_t>(ratio);
  const std::uint32_t exponent = (bits >> 23) & 255;
  return static_cast<std::uint8_t>(exponent + ((bits & 0x7FFFFF) != 0 ? 1 : 0));
}

void quantize_dequantize(const BlockFormat& format, float* values, std::int64_t count,
                         std::uint8_t* codes, std::uint8_t* scales) {
  for (std::int64_t i = 0; i < count; i += format.block) {
    const std::int64_t n = std::min<std::int64_t>(format.block, count - i);
    const std::uint8_t scale = block_scale(format, largest_magnitude(values + i, n));
    block(format, scale_value(scale), values + i, n, codes == nullptr ? nullptr : codes + i);
    if (scales != nullptr) *scales++ = scale;
  }
}

}  // namespace dsv4
