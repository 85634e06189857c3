// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "cuda/isa_check/case.hpp"
#include "cuda/isa_check/suite.hpp"

namespace dsv4::isa_check {
namespace {

// Values where conversions, sums and functions go wrong, at the start of every stream of raw bits.
constexpr std::uint32_t kEdges[] = {
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x7F7FFFFF,
    0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x3F808000, 0x3F818000,
    0x43E00000, 0x43E80000, 0x43E7FFFF, 0x3B000000, 0x3A800000, 0x3A7FFFFF, 0x40C00000, 0x3E800000,
    0x3F400000, 0x3FA00000, 0x3FE00000, 0x40200000, 0x40600000, 0x40A00000, 0x00400000, 0x7F000000,
    // Around the ends of 2^x (128, -126, -149, -149.5, -150) and of e^x (88.72, -87.34, -103.97) …
    0x43000000, 0x42FFFFFF, 0xC2FC0000, 0xC2FC0001, 0xC3150000, 0xC3158000, 0xC3160000, 0xC3160001,
    0xC315FFFF, 0x42B17217, 0x42B17218, 0xC2AEAC4F, 0xC2AEAC50, 0xC2CFF1B4, 0xC2CFF1B5, 0xC2D00000,
    // … 1 and the square roots of 1/2 and 2, where log2 changes its exponent …
    0x3F800001, 0x3F7FFFFF, 0x3F3504F2, 0x3F3504F3, 0x3F3504F4, 0x3FB504F2, 0x3FB504F3, 0x3FB504F4,
    // … quarter turns, and 2^20, where sine and cosine end.
    0x3F490FDB, 0x3FC90FDB, 0x40490FDB, 0xC0490FDB, 0x49800000, 0x49800001, 0xC9800000, 0xC9800001};

// Every eighth operand of a product is the next of these; the largest overflow a sum.
constexpr std::uint16_t kBf16Edges[] = {0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x7F7F, 0xFF7F};
constexpr std::uint8_t kE4m3Edges[] = {0x00, 0x80, 0x01, 0x87, 0x08, 0x7E, 0xFE};
constexpr std::uint32_t kTf32Edges[] = {0x00000000, 0x80000000, 0x00002000, 0x807FE000,
                                        0x00800000, 0x7F7FE000, 0x3F801FFF};
// … and every 64th word holds one of these, so that some sums stay finite.
constexpr std::uint16_t kBf16NotFinite[] = {0x7F80, 0xFF80, 0x7FC0, 0xFF81};
constexpr std::uint8_t kE4m3NotFinite[] = {0x7F, 0xFF};
constexpr std::uint32_t kTf32NotFinite[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFF802000};

// The lowest operand of word i of `plain`, replaced where an edge or no number is due.
template <class T, std::size_t kEdgeCount, std::size_t kOthers>
std::uint32_t with_edges(std::uint32_t plain, std::uint64_t i, const T (&edges)[kEdgeCount],
                         const T (&not_finite)[kOthers]) {
  if (i % 8 != 0) return plain;
  const T edge = i % 64 == 0 ? not_finite[i / 64 % kOthers] : edges[i / 8 % kEdgeCount];
  constexpr std::uint32_t kMask = static_cast<T>(~T{0});
  return (plain & ~kMask) | edge;
}

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
    case Fill::bf16_tiny:
      return bf16_pair(std::ldexp(wide(0), -68), std::ldexp(wide(1), -68));
    case Fill::bf16_bits:
      return with_edges(word(Fill::bf16_wide, rng, i), i, kBf16Edges, kBf16NotFinite);
    case Fill::e4m3_bits:
      return with_edges(word(Fill::e4m3, rng, i), i, kE4m3Edges, kE4m3NotFinite);
    case Fill::tf32_tiny:
      return float_bits(std::ldexp(wide(0), -68));
    case Fill::tf32_bits:
      return with_edges(float_bits(wide(0)), i, kTf32Edges, kTf32NotFinite);
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

}  // namespace dsv4::isa_check
