// SPDX-License-Identifier: Apache-2.0
// Core attention with a sink, and the attention of a block against plain loops over its own taps.
#include "reference/attention.hpp"

#include <cmath>
#include <complex>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "reference/block.hpp"
#include "reference/linear.hpp"
#include "reference/rope.hpp"
#include "support/matrices.hpp"
#include "support/random_model.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::identical;
using testing::kUnit;
using testing::random_matrix;
using testing::Recorder;
using testing::within;

const Mat kNone(0, 4);

// sum exp(z) E / (sum exp(z) + exp(sink)), without a maximum, in long double. Returns o, then lse.
struct Direct {
  std::vector<long double> o;
  long double lse;
};

Direct direct(const Row& q, const std::vector<Row>& e, Real sink) {
  const auto c = q.size();
  Direct out{std::vector<long double>(static_cast<std::size_t>(c), 0), 0};
  long double denominator = std::exp(static_cast<long double>(sink));
  for (const Row& row : e) {
    long double z = 0;
    for (Index i = 0; i < c; ++i) z += static_cast<long double>(q(i)) * row(i);
    const long double p = std::exp(z / std::sqrt(static_cast<long double>(c)));
    denominator += p;
    for (Index i = 0; i < c; ++i) out.o[static_cast<std::size_t>(i)] += p * row(i);
  }
  for (long double& x : out.o) x /= denominator;
  out.lse = std::log(denominator);
  return out;
}

TEST(CoreAttention, OnPaper) {
  // c = 4: scale 1/2. q = [2 0 0 0], so z is the first dim of a key: ln 3 and 0. Sink ln 4:
  // denominator 3 + 1 + 4 = 8, weights 3/8 and 1/8, second dim 3/8 * 1 + 1/8 * 5 = 1.
  const Mat q{{2, 0, 0, 0}};
  const Mat raw{{std::log(Real(3)), 1, 0, 0}, {0, 5, 0, 0}};

  const HeadOutput out =
      core_attention(q, raw, kNone, Sight{0, 2}, Row{{std::log(Real(4)), 0}}.head(1));

  EXPECT_TRUE(within(out.o, Mat{{Real(3) / 8 * std::log(Real(3)), 1, 0, 0}}, 8 * kUnit));
  EXPECT_NEAR(out.lse(0), std::log(Real(8)), 8 * kUnit);
}

TEST(CoreAttention, WithoutASinkIsPlainSoftmax) {
  const Mat q = random_matrix(1, 8, "q");
  const Mat raw = random_matrix(5, 4, "raw");
  const Row sink = Row::Constant(2, -std::numeric_limits<Real>::infinity());

  const HeadOutput out = core_attention(q, raw, kNone, Sight{0, 5}, sink);

  for (Index h = 0; h < 2; ++h) {
    const Row z = q.middleCols(4 * h, 4) * raw.transpose() / 2;
    const Row e = z.array().exp();
    EXPECT_TRUE(within(out.o.segment(4 * h, 4), e / e.sum() * raw, 32 * kUnit));
    EXPECT_NEAR(out.lse(h), std::log(e.sum()), 16 * kUnit);
  }
}

TEST(CoreAttention, OfAHugeSinkIsZeroAndOfHugeScoresIsTheBestValue) {
  const Mat q{{2000, 0, 0, 0}};
  const Mat raw{{1, 2, 3, 4}, {-1, 7, 7, 7}};

  const HeadOutput sunk = core_attention(q, raw, kNone, Sight{0, 2}, Row::Constant(1, 1e5));
  const HeadOutput best = core_attention(q, raw, kNone, Sight{0, 2}, Row::Zero(1));

  EXPECT_EQ(sunk.o, Row::Zero(4));
  EXPECT_EQ(best.o, Row(raw.row(0)));
  EXPECT_EQ(best.lse(0), 1000);
}

TEST(CoreAttention, EqualsTheDirectFormulaOverWindowAndEntries) {
  const Mat q = random_matrix(1, 3 * 6, "q");
  const Mat raw = random_matrix(9, 6, "raw");
  const Mat entries = random_matrix(7, 6, "entries");
  const Row sink = random_matrix(1, 3, "sink");
  const std::vector<std::int32_t> chosen = {5, -1, 0, 2, -1};

  const HeadOutput out = core_attention(q, raw, entries, Sight{2, 4, chosen.data(), 5}, sink);

  const std::vector<Row> e = {raw.row(2),     raw.row(3),     raw.row(4),    raw.row(5),
                              entries.row(5), entries.row(0), entries.row(2)};
  for (Index h = 0; h < 3; ++h) {
    const Direct expected = direct(q.middleCols(6 * h, 6), e, sink(h));
    // A score of size <= 16 after 6 products errs by 8 * 16 u, a probability by twice that and the
    // 7 terms of either sum; values are below 4.
    for (Index i = 0; i < 6; ++i) {
      EXPECT_NEAR(out.o(6 * h + i), static_cast<Real>(expected.o[static_cast<std::size_t>(i)]),
                  (2 * 8 * 16 + 14 + 8) * 4 * kUnit);
    }
    EXPECT_NEAR(out.lse(h), static_cast<Real>(expected.lse), (8 * 16 + 12) * kUnit);
  }
}

TEST(CoreAttention, DoesNotDependOnTheOrderOfEntries) {
  const Mat q = random_matrix(1, 2 * 6, "q");
  const Mat raw = random_matrix(3, 6, "raw");
  const Mat entries = random_matrix(9, 6, "entries");
  const Row sink = random_matrix(1, 2, "sink");
  const std::vector<std::int32_t> a = {0, 3, 5, 8}, b = {8, 0, 5, 3}, padded = {-1, 5, 8, -1, 3, 0};

  const HeadOutput x = core_attention(q, raw, entries, Sight{0, 3, a.data(), 4}, sink);
  const HeadOutput y = core_attention(q, raw, entries, Sight{0, 3, b.data(), 4}, sink);
  const HeadOutput z = core_attention(q, raw, entries, Sight{0, 3, padded.data(), 6}, sink);

  EXPECT_TRUE(within(y.o, x.o, 64 * kUnit));
  EXPECT_TRUE(within(z.o, x.o, 64 * kUnit));
  EXPECT_TRUE(within(y.lse, x.lse, 64 * kUnit));
}

TEST(CoreAttention, ScalesWithItsValuesWhenScoresAreScaledBack) {
  const Mat q = random_matrix(1, 6, "q");
  const Mat raw = random_matrix(4, 6, "raw");
  const Row sink{{0.3}};

  const HeadOutput out = core_attention(q, raw, kNone, Sight{0, 4}, sink);
  const HeadOutput scaled = core_attention(q / 8, 8 * raw, kNone, Sight{0, 4}, sink);

  EXPECT_TRUE(identical(scaled.o, 8 * out.o));  // powers of two
}

// The attention of one block of a small model, run in chunks, and everything it reported.
struct AttentionRun {
  Mat q, kv, entries, o, o_derotated, o_lora, out, window;
  std::vector<std::vector<int>> chosen;  // per query
};

void append(Mat& to, const Mat& rows) {
  const Mat before = to;
  to.resize(before.rows() + rows.rows(), rows.cols());
  if (before.size() > 0) to.topRows(before.rows()) = before;
  to.bottomRows(rows.rows()) = rows;
}

AttentionRun run_attention(const ModelConfig& c, std::int64_t layer, const AttentionWeights& w,
                           const Mat& x, const std::vector<Index>& chunks) {
  AttentionRun run;
  BlockCache cache(c, layer);
  const Row f = rope_frequencies(c, c.ratio(layer));
  Index start = 0;
  for (const Index s : chunks) {
    Recorder r;
    Tap tap(r);
    tap.bind("s", s).bind("d", c.dim);
    attention(c, layer, w, f, x.middleRows(start, s), start, cache, tap);
    append(run.q, r.matrix("q"));
    append(run.kv, r.matrix("kv"));
    append(run.o, r.matrix("o"));
    append(run.o_derotated, r.matrix("o_derotated"));
    append(run.o_lora, r.matrix("o_lora"));
    append(run.out, r.matrix("out"));
    if (r.records.contains("compressor.entry")) append(run.entries, r.matrix("compressor.entry"));
    for (Index i = 0; i < s; ++i) {
      std::vector<int> set;
      if (w.indexer) {
        const Mat all = r.matrix("indexer.topk_idxs");
        for (Index k = 0; k < all.cols(); ++k)
          if (all(i, k) >= 0) set.push_back(static_cast<int>(all(i, k)));
      } else if (w.compressor) {
        for (int e = 0; e < (start + i + 1) / c.ratio(layer); ++e) set.push_back(e);
      }
      run.chosen.push_back(set);
    }
    start += s;
  }
  return run;
}

class AttentionLayers : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(AttentionLayers, EqualsTheDirectFormulaOverItsOwnTaps) {
  const std::int64_t layer = GetParam();
  const testing::LoadedModel m(testing::small_config(), 5);
  const ModelConfig& c = m.config();
  const AttentionWeights w =
      load_block(m.checkpoint, "layers." + std::to_string(layer), layer).attn;
  const Mat x = random_matrix(37, c.dim, "x");

  const AttentionRun run = run_attention(c, layer, w, x, {1, 9, 1, 20, 6});

  const Row f = rope_frequencies(c, c.ratio(layer));
  for (Index t = 0; t < 37; ++t) {
    std::vector<Row> e;
    for (Index p = std::max<Index>(0, t - c.window_size + 1); p <= t; ++p)
      e.push_back(run.kv.row(p));
    for (const int s : run.chosen[static_cast<std::size_t>(t)]) e.push_back(run.entries.row(s));
    for (Index h = 0; h < c.n_heads; ++h) {
      const Direct expected =
          direct(run.q.row(t).segment(h * c.head_dim, c.head_dim), e, w.attn_sink(h));
      for (Index i = 0; i < c.head_dim; ++i) {
        const Index at = h * c.head_dim + i;
        // Scores below 64 after 24 products: 26 * 64 u, twice; values below 8.
        EXPECT_NEAR(run.o(t, at), static_cast<Real>(expected.o[static_cast<std::size_t>(i)]),
                    (2 * 26 * 64 + 64) * 8 * kUnit);
      }
      // The last 8 dims turn back by the query's own position.
      for (Index i = 0; i < f.size(); ++i) {
        const Index at = (h + 1) * c.head_dim - 2 * f.size() + 2 * i;
        const std::complex<Real> z(run.o(t, at), run.o(t, at + 1));
        const std::complex<Real> back = z * std::polar(Real(1), -static_cast<Real>(t) * f(i));
        EXPECT_NEAR(run.o_derotated(t, at), back.real(), 64 * kUnit * (1 + std::abs(z)));
        EXPECT_NEAR(run.o_derotated(t, at + 1), back.imag(), 64 * kUnit * (1 + std::abs(z)));
      }
    }
  }
}

TEST_P(AttentionLayers, ProjectsEachGroupOfHeadsByItsOwnRows) {
  const std::int64_t layer = GetParam();
  const testing::LoadedModel m(testing::small_config(), 5);
  const ModelConfig& c = m.config();
  const AttentionWeights w =
      load_block(m.checkpoint, "layers." + std::to_string(layer), layer).attn;

  const AttentionRun run = run_attention(c, layer, w, random_matrix(20, c.dim, "x"), {20});

  // 6 heads of 24 in 3 groups: group g reads dims 48 g ..., writes 44 numbers from wo_a's rows 44 g
  // (which begin inside a scale block).
  Mat wo_a(w.wo_a.rows, w.wo_a.cols);
  dequantize(w.wo_a, 0, wo_a.rows(), 0, wo_a.cols(), wo_a.data(), wo_a.cols());
  for (Index t = 0; t < 20; ++t) {
    for (Index g = 0; g < c.o_groups; ++g) {
      for (Index r = 0; r < c.o_lora_rank; ++r) {
        Real sum = 0;
        Real size = 0;
        for (Index i = 0; i < wo_a.cols(); ++i) {
          const Real term =
              wo_a(g * c.o_lora_rank + r, i) * run.o_derotated(t, g * wo_a.cols() + i);
          sum += term;
          size += std::abs(term);
        }
        EXPECT_NEAR(run.o_lora(t, g * c.o_lora_rank + r), sum, 2 * kUnit * 48 * size);
      }
    }
  }
  EXPECT_TRUE(identical(run.out, linear(run.o_lora, w.wo_b)));
}

INSTANTIATE_TEST_SUITE_P(WindowHcaCsa, AttentionLayers, ::testing::Values(0, 1, 2, 3),
                         ::testing::PrintToStringParamName());

TEST(Attention, ReportsTheWindowAsAbsolutePositions) {
  const testing::LoadedModel m(testing::small_config(), 5);  // window 7
  const ModelConfig& c = m.config();
  const AttentionWeights w = load_block(m.checkpoint, "layers.0", 0).attn;
  BlockCache cache(c, 0);
  const Row f = rope_frequencies(c, 0);
  const Mat x = random_matrix(12, c.dim, "x");
  Recorder r;
  Tap tap(r);
  attention(c, 0, w, f, x.topRows(10), 0, cache, {});

  tap.bind("s", 2).bind("d", c.dim);
  attention(c, 0, w, f, x.bottomRows(2), 10, cache, tap);

  EXPECT_EQ(r.matrix("window_idxs"), (Mat{{4, 5, 6, 7, 8, 9, 10}, {5, 6, 7, 8, 9, 10, 11}}));
}

}  // namespace
}  // namespace dsv4::reference
