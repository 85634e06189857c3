// SPDX-License-Identifier: Apache-2.0
// The kernels that run on clusters against their plain twins, which older GPUs run: equal bits
// where the arithmetic is the same, and float64 where sums have another order.
#include <cmath>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/dtype.hpp"
#include "cuda/kernel_check/inputs.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::kernel_check {
namespace {

using namespace stages;

constexpr double kFloat32 = 0x1p-24;

std::unique_ptr<Stages> clusters() { return on_emulator(); }
std::unique_ptr<Stages> plain() {
  emulator::Options ampere;
  ampere.tensor_core = emulator::TensorCore::ampere;
  return on_emulator(ampere);
}

std::size_t times(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

// (fn · row) / sqrt(mean(row²) + eps) in float64, and what the kernel's sums may err by: three
// truncated products for each 8 columns of a warp's 32 n, then one rounding per warp and block; the
// mean and its root.
void expect_mixes(const MhcInput& in, const Bf16s& rows, const Floats& mixes) {
  const int width = in.n * in.d, count = (2 + in.n) * in.n;
  const double steps = 3.0 * 4 * in.n;
  const double beta = steps * (8 * 0x1p-25 + 0x1p-23) + (in.d / 32 + 16) * kFloat32;
  for (int t = 0; t < in.tokens; ++t) {
    double squares = 0;
    for (int i = 0; i < width; ++i) {
      squares += std::pow(decode_bf16(rows[times(t, width) + static_cast<std::size_t>(i)]), 2);
    }
    const double r = 1 / std::sqrt(squares / width + static_cast<double>(in.norm_eps));
    for (int m = 0; m < count; ++m) {
      double sum = 0, size = 0;
      for (int i = 0; i < width; ++i) {
        const double p =
            static_cast<double>(in.fn[times(m, width) + static_cast<std::size_t>(i)]) *
            static_cast<double>(decode_bf16(rows[times(t, width) + static_cast<std::size_t>(i)]));
        sum += p;
        size += std::abs(p);
      }
      const double error = r * (beta * size + (width / 32 + 32) * kFloat32 * std::abs(sum));
      EXPECT_NEAR(static_cast<double>(mixes[times(t, count) + static_cast<std::size_t>(m)]),
                  sum * r, error)
          << "token " << t << " mix " << m;
    }
  }
}

TEST(MhcCluster, StoresTheRowsOfThePlainKernelAndSumsWithinItsBound) {
  // One token, a group and a rest, more groups than clusters; 3 and 6 streams.
  for (const auto& [n, d, tokens] :
       {std::tuple(4, 64, 1), std::tuple(3, 256, 19), std::tuple(6, 128, 17),
        std::tuple(4, 128, 150), std::tuple(4, 1024, 2)}) {
    SCOPED_TRACE(fmt::format("n {}, d {}, {} tokens", n, d, tokens));
    const MhcInput in = mhc_input(21, n, d, tokens, 20, true, true);
    const MhcOutput a = clusters()->mhc(in), b = plain()->mhc(in);
    EXPECT_EQ(a.out, b.out);
    expect_mixes(in, a.out, a.mixes);
    expect_mixes(in, b.out, b.mixes);
    EXPECT_NE(a.mixes, b.mixes) << "the two were to sum in another order: is one of them not run?";
  }
}

TEST(MhcCluster, ReadsTheStreamsAsTheyAreWhereThereIsNoPost) {
  const MhcInput in = mhc_input(21, 4, 96, 18, 20, false, true);
  expect_mixes(in, in.streams, clusters()->mhc(in).mixes);
}

// Weights and the collapsed row follow from the mixes by the same text: equal mixes, equal bits.
TEST(MhcCluster, WeighsAsThePlainKernelDoes) {
  MhcInput in = mhc_input(21, 4, 64, 21, 20, true, true);
  std::fill(in.fn.begin(), in.fn.end(), 0.0F);
  const MhcOutput a = clusters()->mhc(in), b = plain()->mhc(in);
  EXPECT_EQ(a.mixes, b.mixes);
  EXPECT_EQ(a.pre, b.pre);
  EXPECT_EQ(a.post, b.post);
  EXPECT_EQ(a.comb, b.comb);
  EXPECT_EQ(a.x, b.x);
}

// One channel of one entry in float64: sum p kv, and sum p |kv|.
std::pair<double, double> pooled(const CompressorInput& in, int entry, int channel) {
  double m = -INFINITY, sum = 0, value = 0, size = 0;
  const auto slot = [&](int i) {
    const int position = entry * in.ratio + i;
    const bool fresh = position >= in.start;
    const std::size_t at =
        times(fresh ? position - in.start : i, in.c) + static_cast<std::size_t>(channel);
    const double bias = in.ape[times(i, in.c) + static_cast<std::size_t>(channel)];
    return fresh ? std::pair<double, double>(in.kv[at], static_cast<double>(in.score[at]) + bias)
                 : std::pair<double, double>(in.kv_state[at], in.score_state[at]);
  };
  for (int i = 0; i < in.ratio; ++i) m = std::max(m, slot(i).second);
  for (int i = 0; i < in.ratio; ++i) {
    const auto [kv, score] = slot(i);
    const double p = std::exp(score - m);
    sum += p;
    value += p * kv;
    size += p * std::abs(kv);
  }
  return {value / sum, size / sum};
}

TEST(CompressCluster, PoolsAsFloat64DoesAndUpdatesTheStateAsThePlainKernel) {
  // Prefill with a rest, decode that completes a group, decode that does not; a short group.
  for (const auto& [c, rope, ratio, start, tokens] :
       {std::tuple(160, 32, 128, 0, 260), std::tuple(160, 32, 128, 127, 1),
        std::tuple(160, 32, 128, 100, 1), std::tuple(128, 64, 16, 5, 40),
        std::tuple(512, 64, 128, 64, 64)}) {
    SCOPED_TRACE(fmt::format("c {}, ratio {}, {} tokens from {}", c, ratio, tokens, start));
    const CompressorInput in = compressor_input(22, c, rope, ratio, start, tokens, 30);
    const CompressorOutput a = clusters()->compress(in), b = plain()->compress(in);
    EXPECT_EQ(a.kv_state, b.kv_state);
    EXPECT_EQ(a.score_state, b.score_state);
    ASSERT_EQ(a.pooled.size(), times((start + tokens) / ratio - start / ratio, c));
    ASSERT_EQ(b.pooled.size(), a.pooled.size());
    for (std::size_t i = 0; i < a.pooled.size(); ++i) {
      const auto entry = start / ratio + static_cast<int>(i) / c;
      const auto [value, size] = pooled(in, entry, static_cast<int>(i) % c);
      // Scores of up to 61 are rounded, subtracted and put into exp; then sums of `ratio`.
      const double error = (2 * (ratio + 61 + 61 + 8)) * kFloat32 * size;
      EXPECT_NEAR(static_cast<double>(a.pooled[i]), value, error);
      EXPECT_NEAR(static_cast<double>(b.pooled[i]), value, error);
    }
  }
}

}  // namespace
}  // namespace dsv4::kernel_check
