// SPDX-License-Identifier: Apache-2.0
// Kernels that no stage of verify runs alone, against core's codecs bit for bit and against float64
// within the roundings of their sums.
#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <tuple>
#include <vector>

#include "core/dtype.hpp"
#include "core/quantize.hpp"
#include "cuda/emulator/machine.hpp"
#include "cuda/kernel_check/inputs.hpp"
#include "cuda/kernels/linear_naive.hpp"
#include "cuda/kernels/linear_tiled.hpp"
#include "cuda/kernels/rope.hpp"
#include "cuda/stages/stages.hpp"
#include "tests/cuda/value_checks.hpp"

namespace dsv4::kernel_check {
namespace {

using namespace stages;

constexpr double kFloat32 = 0x1p-24;

std::size_t at(int row, int columns, int column) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
         static_cast<std::size_t>(column);
}

// A value whose float32 computation errs by `error`, stored in BF16: between these two.
void expect_stored(std::uint16_t got, double exact, double error) {
  EXPECT_LE(decode_bf16(encode_bf16(static_cast<float>(exact - error))), decode_bf16(got));
  EXPECT_GE(decode_bf16(encode_bf16(static_cast<float>(exact + error))), decode_bf16(got));
}

TEST(QuantizeKernel, IsTheQuantiserOfCoreBitForBit) {
  const auto emulator = on_emulator();
  Stages& device = *emulator;
  EXPECT_EQ(value_checks::quantiser(device, Quantizer::fp8_128, kFp8Block128, 7, 512), "");
  EXPECT_EQ(value_checks::quantiser(device, Quantizer::fp8_64, kFp8Block64, 7, 448), "");
  EXPECT_EQ(value_checks::fp4_codes(device), "");
}

TEST(GateKernel, TakesTheLowerIndexAmongEquals) {
  EXPECT_EQ(value_checks::ties(*on_emulator()), "");
}

// Any expert will do for a token without numbers, if it is there and not chosen twice.
TEST(GateKernel, NeverPrefersANaNAndNeverChoosesWhoIsNotThere) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const int experts : {8, 100, 384}) {
    GateInput in;
    in.tokens = 4;
    in.experts = experts;
    in.k = 7;
    in.route_scale = 1.5F;
    const auto each = static_cast<std::size_t>(experts);
    in.logits = Inputs(15).floats(4 * each, -3, 3);
    in.bias.assign(each, 0.25F);
    for (std::size_t e = 0; e < each; ++e) {
      in.logits[e] = nan;                             // token 0: all
      if (e != 5) in.logits[each + e] = nan;          // token 1: all but one
      if (e % 3 == 0) in.logits[2 * each + e] = nan;  // token 2: some
    }
    EXPECT_EQ(value_checks::choices(*on_emulator(), in), "") << experts;
  }
}

TEST(AttentionInputsKernel, KeepsTheLastTokensOfACallThatIsLongerThanTheWindow) {
  const auto kernel = [](const kernels::AttentionInputArgs& a) {
    kernels::attention_inputs<160, 32>(a);
  };
  EXPECT_EQ(value_checks::ring<kernels::AttentionInputArgs>(kernel), "");
}

TEST(HadamardKernel, IsTheMatrixOfSignsOverTheRoot) {
  for (const int n : {64, 128}) {
    const int rows = 5;
    const Bf16s x = Inputs(11).bf16(at(rows, n, 0));
    const Bf16s y = on_emulator()->hadamard(x, rows, n);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        double sum = 0, size = 0;
        for (int j = 0; j < n; ++j) {
          const double v = decode_bf16(x[at(r, n, j)]);
          sum += std::popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? v : -v;
          size += std::abs(v);
        }
        // log2 n additions, and the scale.
        const double error = (std::log2(n) + 2) * kFloat32 * size / std::sqrt(n);
        expect_stored(y[at(r, n, i)], sum / std::sqrt(n), error);
      }
    }
  }
}

struct Product {
  int m, n, k;
  bool fp4;
  Bf16s x;
  Bytes codes, scales;

  double w(int row, int column) const {
    if (fp4) {
      const int byte = codes[at(row, k / 2, column / 2)];
      const auto code = static_cast<std::uint8_t>(column % 2 == 0 ? byte & 15 : byte >> 4);
      return static_cast<double>(decode_e2m1(code)) *
             decode_e8m0(scales[at(row, k / 32, column / 32)]);
    }
    return static_cast<double>(decode_e4m3(codes[at(row, k, column)])) *
           decode_e8m0(scales[at(row / 128, (k + 127) / 128, column / 128)]);
  }
  Bf16s run(Stages& device) const {
    return device.linear(x, m, {codes.data(), scales.data(), n, k, fp4});
  }
};

// small: integers and scales of one, so that every sum is exact.
Product product(int m, int n, int k, bool fp4, bool small) {
  Inputs draw(12);
  Product p{m,
            n,
            k,
            fp4,
            draw.bf16(at(m, k, 0)),
            fp4 ? draw.bytes(at(n, k / 2, 0)) : draw.e4m3(at(n, k, 0)),
            draw.scales(fp4 ? at(n, k / 32, 0) : at((n + 127) / 128, (k + 127) / 128, 0))};
  if (!small) return p;
  const auto integers = draw.integers(p.x.size(), 7);
  for (std::size_t i = 0; i < p.x.size(); ++i)
    p.x[i] = encode_bf16(static_cast<float>(integers[i] - 3));
  if (!fp4) {
    for (auto& code : p.codes) code = encode_e4m3(static_cast<float>(code % 9) - 4);
  }
  for (auto& scale : p.scales) scale = 127;
  return p;
}

class Products : public testing::TestWithParam<std::tuple<int, int, int, bool>> {};

TEST_P(Products, ErrNoMoreThanTheirSums) {
  const auto [m, n, k, fp4] = GetParam();
  const Product p = product(m, n, k, fp4, false);
  const Bf16s y = p.run(*on_emulator());
  for (int r = 0; r < m; ++r) {
    for (int o = 0; o < n; ++o) {
      double sum = 0, size = 0;
      for (int c = 0; c < k; ++c) {
        const double term = decode_bf16(p.x[at(r, k, c)]) * p.w(o, c);
        sum += term;
        size += std::abs(term);
      }
      expect_stored(y[at(r, n, o)], sum, k * kFloat32 * size);
    }
  }
}

TEST_P(Products, AreExactOnSmallIntegers) {
  const auto [m, n, k, fp4] = GetParam();
  const Product p = product(m, n, k, fp4, true);
  const Bf16s y = p.run(*on_emulator());
  for (int r = 0; r < m; ++r) {
    for (int o = 0; o < n; ++o) {
      double sum = 0;
      for (int c = 0; c < k; ++c) sum += decode_bf16(p.x[at(r, k, c)]) * p.w(o, c);
      ASSERT_EQ(y[at(r, n, o)], encode_bf16(static_cast<float>(sum))) << r << ", " << o;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Products,
                         testing::Values(std::tuple(1, 8, 64, false), std::tuple(4, 40, 192, false),
                                         std::tuple(16, 64, 256, false),
                                         std::tuple(19, 160, 384, false),
                                         std::tuple(1, 8, 64, true), std::tuple(4, 40, 192, true),
                                         std::tuple(16, 64, 256, true),
                                         std::tuple(19, 160, 384, true)));

// The plain twin.
std::vector<float> naive(const Product& p) {
  emulator::GlobalMemory memory;
  kernels::LinearArgs a{};
  a.x =
      reinterpret_cast<const isa::Bf16*>(memory.constant("x", std::span<const std::uint16_t>(p.x)));
  a.w = memory.constant("w", std::span<const std::uint8_t>(p.codes));
  a.w_scale = memory.constant("scales", std::span<const std::uint8_t>(p.scales));
  a.y = memory.make<float>("y", at(p.m, p.n, 0));
  a.y_bf16 = reinterpret_cast<isa::Bf16*>(memory.make<std::uint16_t>("y bf16", at(p.m, p.n, 0)));
  a.m = p.m;
  a.n = a.y_stride = p.n;
  a.k = a.x_stride = p.k;
  const emulator::Shape shape{{static_cast<unsigned>(p.n / 32), static_cast<unsigned>(p.m)}, 32};
  emulator::launch(shape, {}, memory, [&] { kernels::linear_naive(a); });
  return {a.y, a.y + at(p.m, p.n, 0)};
}

TEST(PlainProducts, AreThoseOfTheFastKernels) {
  const Product exact = product(6, 64, 256, false, true);
  const std::vector<float> plain = naive(exact);
  const Bf16s fast = exact.run(*on_emulator());
  for (std::size_t i = 0; i < plain.size(); ++i) ASSERT_EQ(fast[i], encode_bf16(plain[i])) << i;

  const Product p = product(6, 64, 256, false, false);
  const std::vector<float> y = naive(p);
  const Bf16s other = p.run(*on_emulator());
  for (int r = 0; r < p.m; ++r) {
    for (int o = 0; o < p.n; ++o) {
      double size = 0;
      for (int c = 0; c < p.k; ++c) size += std::abs(decode_bf16(p.x[at(r, p.k, c)]) * p.w(o, c));
      expect_stored(other[at(r, p.n, o)], y[at(r, p.n, o)], 2 * p.k * kFloat32 * size);
    }
  }
}

}  // namespace
}  // namespace dsv4::kernel_check
