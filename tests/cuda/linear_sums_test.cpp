// SPDX-License-Identifier: Apache-2.0
// The float32 sums of the product kernels before their store in BF16, which would hide them:
// against float64, with the root mean square and the mean that formulas predict of cut sums. A
// prediction uses the formats and the chain lengths of the kernels, never the emulator.
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "core/dtype.hpp"
#include "cuda/emulator/machine.hpp"
#include "cuda/kernel_check/inputs.hpp"
#include "cuda/kernels/linear_tiled.hpp"

namespace dsv4::kernel_check {
namespace {

enum class Kernel { shared_by_warps, tiled };

struct Sums {
  int m, n, k;
  bool fp4;
  std::vector<double> x, w;  // [m, k], [n, k], as the kernel widens them
  std::vector<float> y;      // [m, n]
};

// Data of both signs, or of one. Codes with a scale of one; scales are judged elsewhere.
Sums run(Kernel kernel, bool fp4, int k, bool positive) {
  constexpr int kRows = 16, kOutputs = 32;
  const auto per_row = static_cast<std::size_t>(k);
  Sums s{kRows, kOutputs, k, fp4, {}, {}, {}};
  Inputs draw(16);
  // Of many magnitudes: sums of numbers with few digits and one exponent are exact.
  stages::Bf16s x = draw.bf16(kRows * per_row);
  for (std::uint16_t& v : x) {
    if (positive) v &= 0x7FFFU;
    s.x.push_back(decode_bf16(v));
  }
  stages::Bytes codes;
  for (const float v : draw.floats(kOutputs * per_row, positive ? 0.0F : -6.0F, 6.0F)) {
    const std::uint8_t code = fp4 ? encode_e2m1(v) : encode_e4m3(v);
    s.w.push_back(fp4 ? decode_e2m1(code) : decode_e4m3(code));
    if (fp4 && s.w.size() % 2 == 0) {
      codes.back() = static_cast<std::uint8_t>(codes.back() | code << 4);
    } else {
      codes.push_back(code);
    }
  }
  const stages::Bytes scales(fp4 ? kOutputs * per_row / 32 : (per_row + 127) / 128, 127);
  emulator::GlobalMemory memory;
  kernels::LinearArgs a{};
  a.x = reinterpret_cast<const isa::Bf16*>(
      memory.make<std::uint16_t>("x", std::span<const std::uint16_t>(x)));
  a.w = memory.make<std::uint8_t>("w", std::span<const std::uint8_t>(codes));
  a.w_scale = memory.make<std::uint8_t>("scales", std::span<const std::uint8_t>(scales));
  a.y = memory.make<float>("y", kRows * kOutputs);
  a.y_bf16 = reinterpret_cast<isa::Bf16*>(memory.make<std::uint16_t>("bf16", kRows * kOutputs));
  a.m = kRows;
  a.n = a.y_stride = kOutputs;
  a.k = a.x_stride = k;
  const unsigned outputs = kernel == Kernel::tiled ? kernels::kTileOutputs : 8;
  emulator::launch({{kOutputs / outputs}, 32 * kernels::kLinearWarps}, {}, memory, [&] {
    using kernels::E2m1Weight, kernels::E4m3Weight;
    if (kernel == Kernel::tiled) {
      fp4 ? kernels::linear_tiled<E2m1Weight>(a) : kernels::linear_tiled<E4m3Weight>(a);
    } else {
      fp4 ? kernels::linear<E2m1Weight>(a) : kernels::linear<E4m3Weight>(a);
    }
  });
  s.y.assign(a.y, a.y + std::size_t{kRows} * kOutputs);
  return s;
}

// Sixteen products a step; the columns are shared by the warps, or one warp has them all.
double steps(Kernel kernel, int k) {
  return k / 16.0 / (kernel == Kernel::tiled ? 1 : kernels::kLinearWarps);
}

// A sum p cut at 24 bits loses half of its last bit on average, towards zero: 2^-24 of the power of
// two below it, which is p / (2 ln 2) on average.
constexpr double kCut = 0x1p-24 / (2 * 0.6931);

// Of both signs: what step j loses has the sign of the partial sum, and so of the terms in it. All
// steps together lose kCut sum_j p_j: a term once for each step after it, so that the loss has the
// size of sum t (J - j), J / sqrt(3) times that of sum t.
double predicted_spread(const std::vector<double>& terms, double steps) {
  double squares = 0;
  for (const double t : terms) squares += t * t;
  return kCut * steps / std::sqrt(3) * std::sqrt(squares);
}

// Of one sign: the sum grows evenly. Beside the sum's own cut each product loses, on average, half
// of what lies between its last bit and 2^-25 of the sum, where that is the larger one.
// last_bits: how many products have which exponent of their last bit.
double predicted_loss(double total, const std::map<int, int>& last_bits, double steps, double warps,
                      int k) {
  double loss = 0;
  for (int j = 1; j <= static_cast<int>(steps); ++j) {
    const double top = std::exp2(std::floor(std::log2(total / warps * j / steps)));
    double cut = 0;
    for (const auto& [bit, count] : last_bits)
      cut += count * std::max(0.0, top * 0x1p-25 - std::exp2(bit)) / 2;
    loss += top * 0x1p-24 + 16 * cut / k;
  }
  return warps * loss;
}

struct Measured {
  double rms = 0, mean = 0;  // of error / prediction; the mean towards larger magnitudes
};

Measured measure(Kernel kernel, bool fp4, int k, bool positive) {
  const Sums s = run(kernel, fp4, k, positive);
  const int mantissa = 7 + (fp4 ? 1 : 3);  // of a product
  const double warps = kernel == Kernel::tiled ? 1 : kernels::kLinearWarps;
  Measured all;
  for (int r = 0; r < s.m; ++r) {
    for (int o = 0; o < s.n; ++o) {
      std::vector<double> terms;
      std::map<int, int> last_bits;
      double exact = 0;
      for (int c = 0; c < k; ++c) {
        const double x = s.x[static_cast<std::size_t>(r * k + c)];
        const double w = s.w[static_cast<std::size_t>(o * k + c)];
        exact += terms.emplace_back(x * w);
        if (x != 0 && w != 0) ++last_bits[std::ilogb(x) + std::ilogb(w) - mantissa];
      }
      const double predicted = positive
                                   ? predicted_loss(exact, last_bits, steps(kernel, k), warps, k)
                                   : predicted_spread(terms, steps(kernel, k));
      const double error = (s.y[static_cast<std::size_t>(r * s.n + o)] - exact) / predicted;
      all.rms += error * error / (s.m * s.n);
      all.mean += (exact < 0 ? -error : error) / (s.m * s.n);
    }
  }
  all.rms = std::sqrt(all.rms);
  return all;
}

class Sums32 : public testing::TestWithParam<std::tuple<Kernel, bool, int>> {};

TEST_P(Sums32, OfBothSignsErrAsCutSumsDo) {
  const auto [kernel, fp4, k] = GetParam();

  const Measured m = measure(kernel, fp4, k, false);

  EXPECT_LT(m.rms, 2);
  EXPECT_GT(m.rms, 0.5);
  EXPECT_LT(std::abs(m.mean), 1) << "what is cut has the sign of the sum";
  RecordProperty("rms", std::to_string(m.rms));
  RecordProperty("mean", std::to_string(m.mean));
}

TEST_P(Sums32, OfOneSignLoseWhatIsCut) {
  const auto [kernel, fp4, k] = GetParam();

  const Measured m = measure(kernel, fp4, k, true);

  EXPECT_LT(m.rms, 2);
  EXPECT_LT(m.mean, -0.5) << "towards zero";
  RecordProperty("rms", std::to_string(m.rms));
  RecordProperty("mean", std::to_string(m.mean));
}

INSTANTIATE_TEST_SUITE_P(Kernels, Sums32,
                         testing::Combine(testing::Values(Kernel::shared_by_warps, Kernel::tiled),
                                          testing::Bool(), testing::Values(512, 4096)));

}  // namespace
}  // namespace dsv4::kernel_check
