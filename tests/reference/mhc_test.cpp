// SPDX-License-Identifier: Apache-2.0
// Hyper-connections: Sinkhorn, the mixture that a sublayer reads, the mixture that it writes.
#include "reference/mhc.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "support/matrices.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::kUnit;
using testing::random_matrix;
using testing::Recorder;
using testing::within;

// hc_split_sinkhorn of the official kernel, loop by loop on one token: row softmax, + eps, columns,
// then rows and columns in turn.
std::vector<std::vector<Real>> sinkhorn_twin(const Mat& logits, std::int64_t iterations, Real eps) {
  const auto n = static_cast<std::size_t>(logits.rows());
  std::vector<std::vector<Real>> c(n, std::vector<Real>(n));
  for (std::size_t j = 0; j < n; ++j) {
    Real most = -std::numeric_limits<Real>::infinity();
    for (std::size_t k = 0; k < n; ++k)
      most = std::max(most, logits(static_cast<Index>(j), static_cast<Index>(k)));
    Real sum = 0;
    for (std::size_t k = 0; k < n; ++k) {
      c[j][k] = std::exp(logits(static_cast<Index>(j), static_cast<Index>(k)) - most);
      sum += c[j][k];
    }
    for (std::size_t k = 0; k < n; ++k) c[j][k] = c[j][k] / sum + eps;
  }
  const auto columns = [&] {
    for (std::size_t k = 0; k < n; ++k) {
      Real sum = 0;
      for (std::size_t j = 0; j < n; ++j) sum += c[j][k];
      for (std::size_t j = 0; j < n; ++j) c[j][k] /= sum + eps;
    }
  };
  columns();
  for (std::int64_t t = 0; t < iterations - 1; ++t) {
    for (std::size_t j = 0; j < n; ++j) {
      Real sum = 0;
      for (std::size_t k = 0; k < n; ++k) sum += c[j][k];
      for (std::size_t k = 0; k < n; ++k) c[j][k] /= sum + eps;
    }
    columns();
  }
  return c;
}

ModelConfig config_of(std::int64_t n, std::int64_t d) {
  ModelConfig c;
  c.hc_mult = n;
  c.dim = d;
  c.hc_sinkhorn_iters = 20;
  return c;
}

Tap tap_of(Recorder& recorder, const ModelConfig& c, Index s) {
  Tap tap(recorder);
  tap.bind("s", s).bind("d", c.dim).bind("n", c.hc_mult).bind("m", c.mix_size());
  return tap;
}

TEST(Sinkhorn, OfOneRoundIsRowSoftmaxThenColumns) {
  // logits [[0, ln 3], [0, 0]]: row softmax [[1/4, 3/4], [1/2, 1/2]]; column sums 3/4, 5/4:
  // [[1/3, 3/5], [2/3, 2/5]].
  const Mat logits{{0, std::log(Real(3))}, {0, 0}};

  const Mat c = sinkhorn(logits, 1, 0);

  EXPECT_TRUE(within(c, Mat{{Real(1) / 3, Real(3) / 5}, {Real(2) / 3, Real(2) / 5}}, 8 * kUnit));
}

TEST(Sinkhorn, OfTwoRoundsAddsRowsThenColumns) {
  // From the matrix above: row sums 14/15, 16/15 -> [[5/14, 9/14], [5/8, 3/8]]; column sums 55/56,
  // 57/56 -> [[20/55, 36/57], [35/55, 21/57]].
  const Mat logits{{0, std::log(Real(3))}, {0, 0}};

  const Mat c = sinkhorn(logits, 2, 0);

  EXPECT_TRUE(
      within(c, Mat{{Real(20) / 55, Real(36) / 57}, {Real(35) / 55, Real(21) / 57}}, 16 * kUnit));
}

TEST(Sinkhorn, AddsEpsilonAfterTheSoftmaxAndInEveryLaterDenominator) {
  // One stream, eps 1: softmax 1, + 1 = 2, column 2 / (2 + 1) = 2/3; row (2/3) / (5/3) = 2/5,
  // column (2/5) / (7/5) = 2/7.
  const Mat logits{{5}};

  EXPECT_DOUBLE_EQ(sinkhorn(logits, 1, 1)(0, 0), Real(2) / 3);
  EXPECT_DOUBLE_EQ(sinkhorn(logits, 2, 1)(0, 0), Real(2) / 7);
}

TEST(Sinkhorn, EqualsTheScalarTwin) {
  for (const Index n : {1, 2, 3, 4, 5}) {
    for (const std::int64_t iterations : {1, 2, 20}) {
      const Mat logits = random_matrix(n, n, "logits", 2);

      const Mat c = sinkhorn(logits, iterations, 1e-6);

      // Counted roundings of an entry, relative, on either side: exp, softmax (n + 2), each of
      // the 2 * iterations normalisations n + 2; passed on with at most a factor 6 (error_bound).
      const Real roundings = static_cast<Real>(6 * (n + 6) + 2 * iterations * (n + 2));
      const auto twin = sinkhorn_twin(logits, iterations, 1e-6);
      for (Index j = 0; j < n; ++j) {
        for (Index k = 0; k < n; ++k) {
          const Real expected = twin[static_cast<std::size_t>(j)][static_cast<std::size_t>(k)];
          EXPECT_NEAR(c(j, k), expected, 2 * kUnit * roundings * expected);
        }
      }
    }
  }
}

TEST(Sinkhorn, ColumnsSumToOneWithinEpsilon) {
  const Mat logits = random_matrix(4, 4, "logits", 3);

  const Mat c = sinkhorn(logits, 20, 1e-6);

  // s / (s + eps) with s near one.
  for (Index k = 0; k < 4; ++k) EXPECT_NEAR(c.col(k).sum(), 1, 3e-6);
  EXPECT_GT(c.minCoeff(), 0);
}

TEST(Sinkhorn, RowsApproachOneWithTheIterations) {
  const Mat logits = random_matrix(4, 4, "logits", 1);

  const auto row_error = [&](std::int64_t iterations) {
    return (sinkhorn(logits, iterations, 1e-6).rowwise().sum().array() - 1).abs().maxCoeff();
  };

  EXPECT_LT(row_error(20), 1e-5);
  EXPECT_LT(row_error(20), row_error(2));
}

TEST(HcPre, OnPaperWithTwoStreamsOfOneDim) {
  // X = [3, 1] (n = 2, d = 1): mean square 5, with eps 4 the rms is 3. Row 0 of fn = [1, 0]: mix 1;
  // row 1 = [0, 3]: mix 1; rows 2 and 3 give 0 and 2; the rest is zero.
  // pre_j = sigma(m_j * 2 + base_j) + hc_eps: sigma(2 - 2) = 1/2 and sigma(2 - 2) = 1/2, + 1/4.
  // post = 2 sigma(0 * 1 + 0) = 1 and 2 sigma(2 * 1 - 2) = 1. x = 3/4 * 3 + 3/4 * 1 = 3.
  // comb logits 0: softmax 1/2, + 1/4 = 3/4; column 3/4 / (3/2 + 1/4) = 3/7.
  ModelConfig c = config_of(2, 1);
  c.norm_eps = 4;
  c.hc_eps = 0.25;
  c.hc_sinkhorn_iters = 1;
  Mat fn = Mat::Zero(8, 2);
  fn.topRows(4) << 1, 0, 0, 3, 0, 0, 2, 0;
  Row base = Row::Zero(8);
  base.head(4) << -2, -2, 0, -2;
  const HcWeights w{as_weight(fn), base, Row{{2, 1, 1}}};
  Recorder recorder;

  const HcMix mix = hc_pre(c, w, Mat{{3, 1}}, tap_of(recorder, c, 1));

  EXPECT_TRUE(within(recorder.matrix("mixes"), Mat{{1, 1, 0, 2, 0, 0, 0, 0}}, 8 * kUnit));
  EXPECT_TRUE(within(recorder.matrix("pre"), Mat{{0.75, 0.75}}, 8 * kUnit));
  EXPECT_TRUE(within(mix.post, Mat{{1, 1}}, 8 * kUnit));
  EXPECT_TRUE(within(mix.comb, Mat::Constant(1, 4, Real(3) / 7), 8 * kUnit));
  EXPECT_TRUE(within(mix.x, Mat{{3}}, 32 * kUnit));
}

TEST(HcPre, EqualsTheScalarTwinStageByStage) {
  const std::int64_t n = 3;
  const std::int64_t d = 5;
  const ModelConfig c = config_of(n, d);
  const Mat fn = random_matrix(c.mix_size(), n * d, "fn");
  const HcWeights w{as_weight(fn), random_matrix(1, c.mix_size(), "base"), Row{{0.7, -1.2, 0.4}}};
  const Mat x = random_matrix(4, n * d, "x");
  Recorder recorder;
  recorder.keep_errors = true;

  const HcMix mix = hc_pre(c, w, x, tap_of(recorder, c, 4));

  for (Index s = 0; s < 4; ++s) {
    Real square = 0;
    for (Index i = 0; i < n * d; ++i) square += x(s, i) * x(s, i);
    const Real factor = 1 / std::sqrt(square / static_cast<Real>(n * d) + c.norm_eps);
    std::vector<Real> m(static_cast<std::size_t>(c.mix_size()));
    for (Index k = 0; k < c.mix_size(); ++k) {
      Real sum = 0;
      for (Index i = 0; i < n * d; ++i) sum += fn(k, i) * x(s, i);
      m[static_cast<std::size_t>(k)] = sum * factor;
      EXPECT_NEAR(recorder.matrix("mixes")(s, k), sum * factor,
                  2 * kUnit * recorder.error("mixes")(s, k));
    }
    const auto a = [&](Index k, Index part) {
      return m[static_cast<std::size_t>(k)] * w.scale(part) + w.base(k);
    };
    // The errors of the mixes pass through slopes of at most |scale| / 4, / 2 and (Sinkhorn) 6
    // |scale|.
    const Real slope = 16 * recorder.error("mixes").maxCoeff();
    Mat logits(n, n);
    for (Index j = 0; j < n; ++j) {
      const Real pre = 1 / (1 + std::exp(-a(j, 0))) + c.hc_eps;
      const Real post = 2 / (1 + std::exp(-a(n + j, 1)));
      EXPECT_NEAR(recorder.matrix("pre")(s, j), pre, kUnit * (slope + 20));
      EXPECT_NEAR(mix.post(s, j), post, kUnit * (slope + 20));
      for (Index k = 0; k < n; ++k) logits(j, k) = a(2 * n + n * j + k, 2);
    }
    const auto comb = sinkhorn_twin(logits, c.hc_sinkhorn_iters, c.hc_eps);
    for (Index j = 0; j < n; ++j) {
      for (Index k = 0; k < n; ++k) {
        EXPECT_NEAR(mix.comb(s, j * n + k),
                    comb[static_cast<std::size_t>(j)][static_cast<std::size_t>(k)],
                    kUnit * (slope + 2 * recorder.error("comb")(s, j * n + k)));
      }
    }
    for (Index i = 0; i < d; ++i) {
      Real sum = 0;
      for (Index j = 0; j < n; ++j) sum += recorder.matrix("pre")(s, j) * x(s, j * d + i);
      EXPECT_NEAR(mix.x(s, i), sum, 2 * kUnit * recorder.error("x")(s, i));
    }
  }
}

TEST(HcPost, SumsOverTheFirstIndexOfComb) {
  // n = 2, d = 1; post [10, 20], y = 1, X = [2, 3], comb [from, to] = [[1, 5], [7, 11]]:
  // X'[0] = 10 + 1*2 + 7*3 = 33, X'[1] = 20 + 5*2 + 11*3 = 63.
  const ModelConfig c = config_of(2, 1);
  HcMix mix;
  mix.post = Mat{{10, 20}};
  mix.comb = Mat{{1, 5, 7, 11}};

  const Mat next = hc_post(c, Mat{{1}}, Mat{{2, 3}}, mix, {});

  EXPECT_EQ(next, (Mat{{33, 63}}));
}

TEST(HcPost, KeepsTheSumOverStreamsOfADoublyStochasticMatrix) {
  const ModelConfig c = config_of(4, 6);
  const Mat x = random_matrix(3, 24, "x");
  HcMix mix;
  mix.post = Mat::Zero(3, 4);
  mix.comb = Mat::Zero(3, 16);
  for (Index s = 0; s < 3; ++s) {
    const Mat p = sinkhorn(random_matrix(4, 4, "l", 1, static_cast<std::uint64_t>(s)), 200, 0);
    mix.comb.row(s) = Eigen::Map<const Row>(p.data(), 16);
  }

  const Mat next = hc_post(c, Mat::Zero(3, 6), x, mix, {});

  const auto sum = [](const Mat& m) {
    return Mat(m.leftCols(6) + m.middleCols(6, 6) + m.middleCols(12, 6) + m.rightCols(6));
  };
  EXPECT_TRUE(within(sum(next), sum(x), 1e-12));
}

TEST(HcHead, OnPaperWithTwoStreamsOfOneDim) {
  // X = [3, 1], rms 3 with eps 4; mixes 3*1/3 = 1 and 1*3/3 = 1; sigma(1 * 2 - 2) = 1/2, + 1/4
  // each; x = 3/4 * 4 = 3.
  ModelConfig c = config_of(2, 1);
  c.norm_eps = 4;
  c.hc_eps = 0.25;
  const Mat fn{{1, 0}, {0, 3}};
  const HcHeadWeights w{as_weight(fn), Row{{-2, -2}}, Row::Constant(1, 2)};

  const Mat x = hc_head(c, w, Mat{{3, 1}}, {});

  EXPECT_TRUE(within(x, Mat{{3}}, 32 * kUnit));
}

}  // namespace
}  // namespace dsv4::reference
