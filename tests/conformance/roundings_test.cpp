// SPDX-License-Identifier: Apache-2.0
// What independent roundings make of an error, and sums of float32 and of tensor cores that show
// it.
#include "conformance/roundings.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "core/embedded.hpp"
#include "core/rng.hpp"

namespace dsv4::conformance {
namespace {

constexpr double kFloat32 = 0x1p-24;
using Element = ErrorStatistics::Element;

Sum sum_of(const char* tap) {
  const ModelConfig config = parse_config(official_config("flash"), "flash").config;
  return sum_behind(*find_tap(tap, static_cast<int>(config.n_layers)), config);
}

TEST(Roundings, TheSumBehindAStageHasTheTermsOfItsEquation) {
  EXPECT_EQ(sum_of("layers.2.attn.wq_a.out").terms, 4096);
  EXPECT_TRUE(sum_of("layers.2.attn.wq_a.out").quantised);
  EXPECT_EQ(sum_of("layers.2.hc_ffn.mixes").terms, 4 * 4096);
  EXPECT_FALSE(sum_of("layers.2.hc_ffn.mixes").quantised);
  EXPECT_EQ(sum_of("layers.2.attn.o_lora").terms, 64 * 512 / 8);
  EXPECT_EQ(sum_of("mtp.0.h_proj.out").terms, 4096);
  EXPECT_EQ(sum_of("layers.2.ffn.experts.7.out").terms, 2048);
  EXPECT_FALSE(sum_of("layers.2.attn.q_normed").product);
  EXPECT_EQ(sum_of("layers.2.attn.q").terms, 0);
  EXPECT_EQ(sum_of("layers.2.attn.kv.code").terms, 0);
}

TEST(Roundings, WhatIsNoSumIsAShareOfTheBound) {
  EXPECT_DOUBLE_EQ(sum_of("layers.2.attn.wq_a.out").single, 1.0 / 4096);  // the store
  EXPECT_DOUBLE_EQ(sum_of("layers.2.attn.qr").single, 10.0 / 1024);
  EXPECT_EQ(sum_of("layers.2.attn.q").single, 1);  // all of it
  EXPECT_DOUBLE_EQ(sum_of("layers.2.attn.compressor.pooled").single, 16.0 / 24);
  EXPECT_DOUBLE_EQ(sum_of("layers.3.attn.compressor.pooled").single, 16.0 / 144);
  EXPECT_LT(sum_of("layers.2.hc_attn.comb").single, 0.25);
  EXPECT_EQ(sum_of("layers.2.ffn.shared").inside, 3);
  EXPECT_EQ(sum_of("layers.2.attn.out").inside, 0);
}

TEST(Roundings, AUniformErrorHasTheSameRootMeanSquareAndStaysWithinTheBound) {
  EXPECT_DOUBLE_EQ(rounding_model({300, true, true}, Products::fp32, kFloat32).reach(),
                   1 / std::sqrt(300.0));
  EXPECT_EQ(rounding_model({}, Products::fp32, kFloat32).reach(), 1);
}

TEST(Roundings, IndependentOnesGiveTheRootOfTheirNumber) {
  const RoundingModel m = rounding_model({300, true, true}, Products::fp32, kFloat32);
  EXPECT_EQ(m.unit, kFloat32);
  EXPECT_DOUBLE_EQ(m.typical, 1.0 / 30);
  EXPECT_EQ(m.lean, 0);
}

TEST(Roundings, TensorCoresLeanWithinTheHardBoundOfFloat32) {
  const RoundingModel m = rounding_model({4096, true, false}, Products::tensor_core, kFloat32);
  EXPECT_EQ(m.unit, kFloat32);
  EXPECT_DOUBLE_EQ(m.lean, 0.625);
  // A norm is no product.
  EXPECT_EQ(rounding_model({4096, false, false}, Products::tensor_core, kFloat32).lean, 0);
}

TEST(Roundings, Fp8TensorCoresWidenTheBoundOfProductsOfCodesAlone) {
  const RoundingModel m = rounding_model({4096, true, true}, Products::fp8_promoted, kFloat32);
  EXPECT_DOUBLE_EQ(m.unit * 4096, 4 * 34 * 0x1p-13 + 32 * kFloat32);
  EXPECT_EQ(m.lean, 1);
  EXPECT_EQ(rounding_model({4096, true, false}, Products::fp8_promoted, kFloat32).unit, kFloat32);
}

ErrorStatistics of(int rows, int columns, auto&& error) {
  ErrorStatistics s;
  for (int r = 0; r < rows; ++r) {
    std::vector<Element> row;
    for (int c = 0; c < columns; ++c) row.push_back({error(r, c), 1, 0});
    s.add_row(row);
  }
  return s;
}

TEST(ErrorStatistics, AFewElementsSayNothing) {
  EXPECT_TRUE(of(1, 63, [](int, int) { return 1e9; }).within());
  EXPECT_FALSE(of(1, 64, [](int, int) { return 1e9; }).within());
}

TEST(ErrorStatistics, LargeErrorsAndLeaningOnesAreFound) {
  const auto sign = [](int r, int c) { return (r + c) % 2 == 0 ? 1 : -1; };
  EXPECT_TRUE(of(100, 64, [&](int r, int c) { return sign(r, c) * (1 + r * 1e-3); }).within());
  const auto large = of(100, 64, [&](int r, int c) { return sign(r, c) * (3 + r * 1e-3); });
  EXPECT_GT(large.rms(), large.rms_bound());
  EXPECT_FALSE(large.within());
  const auto leaning = of(100, 64, [](int r, int) { return 0.5 + r * 1e-3; });
  EXPECT_LT(leaning.rms(), leaning.rms_bound());
  EXPECT_GT(leaning.bias(), leaning.bias_bound());
  EXPECT_FALSE(leaning.within());
}

TEST(ErrorStatistics, AConstantPassesWhereValuesDifferByLessThanRoundingMakes) {
  const auto values = [](double spread) {
    ErrorStatistics s;
    std::vector<Element> row;
    for (int i = 0; i < 100; ++i)
      row.push_back({0.1, 1, 0, 1000 + (i % 2 == 0 ? spread : -spread)});
    s.add_row(row);
    return s;
  };
  const double most = values(1).rms_bound();
  EXPECT_TRUE(values(0.99 * most).constant_within());
  EXPECT_FALSE(values(1.01 * most).constant_within());
}

TEST(ErrorStatistics, EqualRowsAreOne) {
  const auto same = [](int, int) { return 1.0; };
  EXPECT_EQ(of(1, 64, same).bias_bound(), of(100, 64, same).bias_bound());
  EXPECT_LT(of(100, 64, [](int r, int) { return 1 + r * 1e-3; }).bias_bound(), 0.41);
}

TEST(ErrorStatistics, WhatMustBeExactIsLeftToTheHardBound) {
  ErrorStatistics s;
  const std::vector<Element> row(100, Element{5, 0, 0});
  s.add_row(row);
  EXPECT_FALSE(s.judged());
}

// How one dot product is summed, and how it ends.
float in_float32(const std::vector<double>& terms) {
  float sum = 0;
  for (const double t : terms) sum += static_cast<float>(t);
  return sum;
}
double cut(double x, int bits) {
  if (x == 0) return 0;
  const int shift = bits - 1 - std::ilogb(x);
  return std::ldexp(std::trunc(std::ldexp(x, shift)), -shift);
}
double in_a_tensor_core(const std::vector<double>& terms) {
  double sum = 0;
  for (std::size_t k = 0; k < terms.size(); k += 16) {
    double step = sum;
    for (std::size_t i = k; i < k + 16; ++i) step += terms[i];
    sum = cut(step, 24);
  }
  return sum;
}

// rows x 64 dot products of n positive terms against their float64 sum, judged as `products`.
ErrorStatistics summed(int n, Products products, auto&& how) {
  const Rng rng(7, "terms");
  const RoundingModel m = rounding_model({n, true, false}, products, kFloat32);
  std::uint64_t drawn = 0;
  ErrorStatistics s;
  for (int r = 0; r < 8; ++r) {
    std::vector<Element> row;
    for (int c = 0; c < 64; ++c) {
      double exact = 0;
      std::vector<double> terms;
      for (int k = 0; k < n; ++k) {
        terms.push_back(static_cast<float>(rng.uniform(drawn++)));
        exact += terms.back();
      }
      const double scale = kFloat32 * n * exact;
      const double error = static_cast<double>(how(terms)) - exact;
      row.push_back({error, m.typical * scale, m.lean * scale});
    }
    s.add_row(row);
  }
  return s;
}

TEST(ErrorStatistics, SumsOfFloat32AreAsPredicted) {
  const ErrorStatistics s = summed(4096, Products::fp32, in_float32);
  EXPECT_TRUE(s.within()) << s.rms() << " " << s.bias();
  EXPECT_GT(s.rms(), 0.05);
}

TEST(ErrorStatistics, SumsOfTensorCoresLeanAndMustBeDeclared) {
  EXPECT_FALSE(summed(4096, Products::fp32, in_a_tensor_core).within());
  EXPECT_TRUE(summed(4096, Products::tensor_core, in_a_tensor_core).within());
}

}  // namespace
}  // namespace dsv4::conformance
