// SPDX-License-Identifier: Apache-2.0
// The errors of emulated tensor cores against float64, compared with what formulas predict. The
// formulas know the number formats, the lengths of chains and the distribution of the data; they do
// not know the emulator.
#include <array>
#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <numbers>
#include <string>
#include <utility>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "cuda/emulator/tensor_core.hpp"

namespace dsv4::emulator {
namespace {

// One instruction: operands with so many fractional bits and a smallest exponent, k products and
// the accumulator cut off `fraction` bits below the largest exponent, their sum `output` bits below
// its own.
struct Instruction {
  const char* name;
  Operand format;
  Unit unit;
  int bits, smallest, k, fraction, output;
};
constexpr Instruction kBf16Wgmma{"wgmma BF16", Operand::bf16, Unit::wgmma, 7, -126, 16, 25, 23};
constexpr Instruction kTf32Mma{"mma TF32", Operand::tf32, Unit::mma, 10, -126, 8, 25, 23};
constexpr Instruction kE4m3Mma{"mma E4M3", Operand::e4m3, Unit::mma, 3, -6, 32, 25, 23};
constexpr Instruction kE4m3Wgmma{"wgmma E4M3", Operand::e4m3, Unit::wgmma, 3, -6, 32, 13, 13};

// Dot products of n normal numbers, or of their sizes; `promote`: the sum goes on in float32 every
// so many (0: never).
struct Chain {
  int n;
  bool positive;
  int promote = 0;
};

// Relative to sum |a||b|.
struct Error {
  double rms, mean;
};

// ---- what formulas say ----------------------------------------------------------------------

constexpr double kMeanProduct = 2 / std::numbers::pi;  // E|ab| of two normal numbers

using Exponents = std::map<int, double>;  // probability

// Without what never happens: no sum here has 10^10 terms.
Exponents likely(Exponents all) {
  std::erase_if(all, [](const auto& e) { return e.second < 1e-10; });
  return all;
}

// floor(log2 |x|) of a normal number of this deviation.
Exponents of_normal(double deviation, int smallest) {
  Exponents out;
  const auto below = [&](int e) {
    return std::erf(std::ldexp(1.0, e) / deviation / std::numbers::sqrt2);
  };
  for (int e = -24; e <= 24; ++e) out[std::max(e, smallest)] += below(e + 1) - below(e);
  return likely(std::move(out));
}

Exponents of_products(const Exponents& one) {
  Exponents out;
  for (const auto& [a, p] : one) {
    for (const auto& [b, q] : one) out[a + b] += p * q;
  }
  return likely(std::move(out));
}

// The largest (or least) of k.
Exponents extreme(const Exponents& one, int k, bool largest) {
  Exponents out;
  double at_most = 0, before = 0;
  for (const auto& [e, p] : one) {
    at_most = std::min(at_most + p, 1.0);
    const double now = largest ? std::pow(at_most, k) : 1 - std::pow(1 - at_most, k);
    out[e] += now - before;
    before = now;
  }
  return likely(std::move(out));
}

// What cutting off towards zero at a unit takes from a number whose last bit is `last`: any
// multiple of that below the unit is as likely. Mean and mean square.
struct Cut {
  double mean = 0, square = 0;
  double variance() const { return square - mean * mean; }
  void add(double weight, const Cut& other) {
    mean += weight * other.mean;
    square += weight * other.square;
  }
};
Cut cut(double unit, double last) {
  if (unit <= last) return {};
  return {(unit - last) / 2, (unit - last) * (2 * unit - last) / 6};
}

// One step: from an accumulator of exponent `before` (none: the first) to a sum of exponent
// `after`. `products`: what one product loses; `sum`: what the accumulator and the output lose
// together.
struct Step {
  Cut products, sum;
};
Step step(const Instruction& x, const Exponents& one, const Exponents& top, const Exponents& last,
          const int* before, int after) {
  Step out;
  for (const auto& [largest, p] : top) {
    const double unit =
        std::ldexp(1.0, std::max(largest, before != nullptr ? *before : largest) - x.fraction);
    for (const auto& [e, q] : one) {
      Cut c = cut(unit, std::ldexp(1.0, e - 2 * x.bits));
      const double whole = std::ldexp(2.25, e);  // all of it: the mean of two significands
      if (c.mean > whole) c = {whole, whole * whole};
      out.products.add(p * q, c);
    }
    if (before != nullptr) out.sum.add(p, cut(unit, std::ldexp(1.0, *before - x.output)));
    for (const auto& [e, q] : last) {
      const double finest = std::max(unit, std::ldexp(1.0, e - 2 * x.bits));
      out.sum.add(p * q, cut(std::ldexp(1.0, after - x.output), finest));
    }
  }
  return out;
}

// Of a whole chain.
struct Loss {
  double mean = 0, variance = 0;
};

// Positive data: everything is cut the same way. The sum after i steps is what is expected of it.
Loss loss_of_positive(const Instruction& x, int steps) {
  const Exponents one = of_products(of_normal(1, x.smallest));
  const Exponents top = extreme(one, x.k, true), last = extreme(one, x.k, false);
  const auto exponent = [&](int i) {
    return static_cast<int>(std::floor(std::log2(i * x.k * kMeanProduct)));
  };
  Loss loss;
  for (int i = 1; i <= steps; ++i) {
    const int before = exponent(std::max(i - 1, 1));
    const Step s = step(x, one, top, last, i > 1 ? &before : nullptr, exponent(i));
    loss.mean -= x.k * s.products.mean + s.sum.mean;
    loss.variance += x.k * s.products.variance() + s.sum.variance();
  }
  return loss;
}

// Signed data: the sum after n products is normal with deviation sqrt(n). What products lose has
// their signs, which are independent. What the sum loses has its own sign, and its unit grows with
// it: it is like a multiple of the sum. Sums after i and j steps are correlated by sqrt(i/j).
Loss loss_of_signed(const Instruction& x, int steps) {
  const Exponents one = of_products(of_normal(1, x.smallest));
  const Exponents top = extreme(one, x.k, true), last = extreme(one, x.k, false);
  Loss loss;
  double shared = 0;  // sum over j < i of the j-th loss's size times sqrt(j)
  for (int i = 1; i <= steps; ++i) {
    double own = 0, square_of_mean = 0;
    for (const auto& [e, p] : of_normal(std::sqrt(1.0 * i * x.k), -24)) {
      const Step s = step(x, one, top, last, i > 1 ? &e : nullptr, e);
      own += p * (x.k * s.products.square + s.sum.square);
      square_of_mean += p * s.sum.mean * s.sum.mean;
    }
    const double size = std::sqrt(square_of_mean);
    loss.variance += own + 2 * size * shared / std::sqrt(1.0 * i);
    shared += size * std::sqrt(1.0 * i);
  }
  return loss;
}

Error predicted(const Instruction& x, const Chain& c) {
  const int chains = c.promote > 0 ? c.n / c.promote : 1;
  const int steps = c.n / chains / x.k;
  // Adding chains in float32 rounds by half of 2^-24 of the sum: nothing beside 13 bits.
  const Loss one = c.positive ? loss_of_positive(x, steps) : loss_of_signed(x, steps);
  const double mean = chains * one.mean;
  const double size = c.n * kMeanProduct;
  return {std::sqrt(mean * mean + chains * one.variance) / size, mean / size};
}

// ---- what the emulator does -----------------------------------------------------------------

constexpr int kRows = 100;

std::uint32_t code_of(Operand format, float v) {
  switch (format) {
    case Operand::bf16:
      return encode_bf16(v);
    case Operand::e4m3:
      return encode_e4m3(v);
    case Operand::tf32:
      return (std::bit_cast<std::uint32_t>(v) + 0x1000U) & ~0x1FFFU;
  }
  return 0;
}

Error measured(const Instruction& x, const Chain& c) {
  const Rng rng(3, "tensor core");
  std::uint64_t at = 0;
  double squares = 0, sum = 0;
  for (int row = 0; row < kRows; ++row) {
    float total = 0, part = 0;
    double exact = 0, size = 0;
    for (int i = 0; i < c.n; i += x.k) {
      std::array<std::array<Part, 32>, 2> operands{};
      for (std::size_t j = 0; j < std::size_t(x.k); ++j) {
        double product = 1;
        for (auto& operand : operands) {
          const auto v = static_cast<float>(rng.normal(at++));
          const std::uint32_t code = code_of(x.format, c.positive ? std::abs(v) : v);
          operand[j] = take_apart(x.format, code);
          product *= static_cast<double>(value_of(x.format, code));
        }
        exact += product;
        size += std::abs(product);
      }
      const std::size_t k = std::size_t(x.k);
      part = dot(TensorCore::hopper, x.unit, x.format, {operands[0].data(), k},
                 {operands[1].data(), k}, part);
      if (c.promote > 0 && (i + x.k) % c.promote == 0) total += std::exchange(part, 0.0F);
    }
    const double error = (static_cast<double>(total) + part - exact) / size;
    squares += error * error;
    sum += error;
  }
  return {std::sqrt(squares / kRows), sum / kRows};
}

void expect_as_predicted(const Instruction& x, const Chain& c) {
  const Error want = predicted(x, c), got = measured(x, c);
  SCOPED_TRACE(std::string(x.name) + ", n = " + std::to_string(c.n) + ", RMS " +
               std::to_string(got.rms / want.rms) + " of " + std::to_string(want.rms * 1e6) +
               "e-6");
  EXPECT_GT(got.rms, want.rms / 2);
  EXPECT_LT(got.rms, want.rms * 2);
  if (c.positive) {
    EXPECT_LT(got.mean, want.mean / 2) << "towards zero";
    EXPECT_GT(got.mean, want.mean * 2);
  } else {
    EXPECT_LT(std::abs(got.mean), 4 * want.rms / std::sqrt(double{kRows})) << "no bias";
  }
}

constexpr int kLengths[] = {512, 4096};

TEST(TensorCoreStatistics, Bf16Wgmma) {
  for (const int n : kLengths) {
    expect_as_predicted(kBf16Wgmma, {n, true});
    expect_as_predicted(kBf16Wgmma, {n, false});
  }
}

TEST(TensorCoreStatistics, Tf32Mma) {
  for (const int n : kLengths) {
    expect_as_predicted(kTf32Mma, {n, true});
    expect_as_predicted(kTf32Mma, {n, false});
  }
}

// Products are multiples of 2^-18: while the sum is below 2^6 nothing is cut.
TEST(TensorCoreStatistics, E4m3Mma) {
  EXPECT_EQ(measured(kE4m3Mma, {128, false}).rms, 0);
  for (const int n : kLengths) expect_as_predicted(kE4m3Mma, {n, true});
}

TEST(TensorCoreStatistics, E4m3WgmmaNeverPromoted) {
  for (const int n : kLengths) {
    expect_as_predicted(kE4m3Wgmma, {n, true});
    expect_as_predicted(kE4m3Wgmma, {n, false});
  }
}

TEST(TensorCoreStatistics, E4m3WgmmaPromotedEvery128) {
  for (const int n : kLengths) {
    expect_as_predicted(kE4m3Wgmma, {n, true, 128});
    expect_as_predicted(kE4m3Wgmma, {n, false, 128});
  }
}

// What promotion is for, by the formulas and by the emulator.
TEST(TensorCoreStatistics, UnpromotedFp8LosesMoreThanAPercentOfALongSum) {
  for (const auto& of : {predicted, measured}) {
    EXPECT_LT(of(kE4m3Wgmma, {4096, true}).mean, -1e-2);
    EXPECT_GT(of(kE4m3Wgmma, {4096, true, 128}).mean, -2e-3);
  }
}

}  // namespace
}  // namespace dsv4::emulator
