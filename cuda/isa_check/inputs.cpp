// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "cuda/isa_check/case.hpp"
#include "cuda/isa_check/suite.hpp"

namespace dsv4::isa_check {
namespace {

// Values where conversions and sums go wrong, at the start of every stream of raw bits.
constexpr std::uint32_t kEdges[] = {
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF,
    0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x3F808000, 0x3F818000,
    0x43E00000, 0x43E80000, 0x43E7FFFF, 0x3B000000, 0x3A800000, 0x3A7FFFFF, 0x40C00000, 0x3E800000,
    0x3F400000, 0x3FA00000, 0x3FE00000, 0x40200000, 0x40600000, 0x40A00000, 0x00400000, 0x7F000000};

std::uint32_t float_bits(double x) { return std::bit_cast<std::uint32_t>(static_cast<float>(x)); }

std::uint32_t bf16_pair(float low, float high) {
  return encode_bf16(low) | static_cast<std::uint32_t>(encode_bf16(high)) << 16;
}

std::uint32_t word(Fill fill, const Rng& rng, std::uint64_t i) {
  const auto normal = [&](std::uint64_t j) { return static_cast<float>(rng.normal(4 * i + j)); };
  const auto wide = [&](std::uint64_t j) {
    return std::ldexp(normal(j), static_cast<int>(rng.bits(4 * i + j) % 24) - 12);
  };
  const auto bits = static_cast<std::uint32_t>(rng.bits(4 * i));
  switch (fill) {
    case Fill::floats:
      return float_bits(rng.normal(4 * i));
    case Fill::positive:
      return float_bits(std::exp2(80 * rng.uniform(4 * i) - 40));
    case Fill::angles:
      return float_bits(std::ldexp(2 * rng.uniform(4 * i) - 1, static_cast<int>(i % 21)));
    case Fill::bf16:
      return bf16_pair(normal(0), normal(1));
    case Fill::bf16_wide:
      return bf16_pair(wide(0), wide(1));
    case Fill::e4m3: {
      std::uint32_t codes = 0;
      for (std::uint32_t j = 0; j < 4; ++j) codes |= std::uint32_t{encode_e4m3(wide(j))} << 8 * j;
      return codes;
    }
    case Fill::bits:
      return i < std::size(kEdges) ? kEdges[i] : bits;
    case Fill::bf16_bits:
    case Fill::e4m3_bits:
      // NaN and infinity are rare enough that some sums stay finite.
      return i % 16 == 0 ? bits
                         : word(fill == Fill::bf16_bits ? Fill::bf16_wide : Fill::e4m3, rng, i);
  }
  return 0;
}

}  // namespace

std::vector<std::uint32_t> inputs(const std::string& name, int fill, int count) {
  const Rng rng(1, name);
  std::vector<std::uint32_t> out;
  for (int i = 0; i < count; ++i) {
    out.push_back(word(static_cast<Fill>(fill), rng, static_cast<std::uint64_t>(i)));
  }
  return out;
}

std::uint64_t digest(const std::vector<std::uint32_t>& words) {
  std::uint64_t h = 0xCBF29CE484222325U;
  for (const std::uint32_t w : words) {
    for (int b = 0; b < 4; ++b) h = (h ^ (w >> 8 * b & 255U)) * 0x100000001B3U;
  }
  return h;
}

}  // namespace dsv4::isa_check
