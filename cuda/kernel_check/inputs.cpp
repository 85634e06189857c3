// SPDX-License-Identifier: Apache-2.0
#include "cuda/kernel_check/inputs.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/dtype.hpp"

namespace dsv4::kernel_check {

std::uint64_t Inputs::next() {
  std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

stages::Bf16s Inputs::bf16(std::size_t count) {
  stages::Bf16s out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t r = next();
    const auto sign = static_cast<std::uint16_t>(r & 0x8000U);
    const auto exponent = static_cast<std::uint16_t>(120 + (r >> 16) % 15);
    const auto mantissa = static_cast<std::uint16_t>(r >> 32 & 0x7FU);
    out[i] = static_cast<std::uint16_t>(sign | exponent << 7 | mantissa);
    if (i % 61 == 60) out[i] = i % 2 == 0 ? sign : static_cast<std::uint16_t>(sign | 0x437FU);
  }
  return out;
}

stages::Floats Inputs::floats(std::size_t count, float low, float high) {
  stages::Floats out(count);
  for (float& v : out) {
    v = low + (high - low) * static_cast<float>(next() >> 40) * 0x1p-24F;
  }
  return out;
}

std::vector<std::int32_t> Inputs::integers(std::size_t count, std::int32_t below) {
  std::vector<std::int32_t> out(count);
  for (auto& v : out) v = static_cast<std::int32_t>(next() % static_cast<std::uint64_t>(below));
  return out;
}

stages::Bytes Inputs::bytes(std::size_t count) {
  stages::Bytes out(count);
  for (auto& v : out) v = static_cast<std::uint8_t>(next() >> 56);
  return out;
}

stages::Bytes Inputs::e4m3(std::size_t count) {
  stages::Bytes out = bytes(count);
  for (auto& v : out) {
    if ((v & 0x7FU) == 0x7FU) v ^= 0x40U;
  }
  return out;
}

stages::Bytes Inputs::scales(std::size_t count) {
  stages::Bytes out(count);
  for (auto& v : out) v = static_cast<std::uint8_t>(120 + next() % 10);
  return out;
}

stages::Bf16s edges(std::size_t count) {
  constexpr std::array values{0.0F,    -0.0F,     1.0F,   -1.0F,  1.5F,   2.5F,   -3.5F, 5.0F,
                              0.25F,   0.75F,     448.0F, 464.0F, -480.F, 6.0F,   7.0F,  0x1p-126F,
                              0x1p-9F, 0x1.8p-9F, 1e-4F,  3e38F,  -3e38F, 1e-30F, 17.0F, 0x1p-133F};
  stages::Bf16s out(count);
  for (std::size_t i = 0; i < count; ++i) {
    // Each block of 128 begins elsewhere, and one in eight is small throughout.
    const std::size_t block = i / 128;
    const float v = values[(i * 7 + block) % values.size()];
    out[i] = encode_bf16(block % 8 == 7 ? v * 0x1p-40F : v);
  }
  if (count > 300) {
    out[300] = 0x7F80;  // infinity
    out[200] = 0x7FC1;  // NaN
  }
  return out;
}

}  // namespace dsv4::kernel_check
