// SPDX-License-Identifier: Apache-2.0
// Index scores, what a query may look at, and the exact top-k.
#include "reference/indexer.hpp"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <numeric>
#include <set>

#include "reference/linear.hpp"
#include "support/matrices.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::identical;
using testing::kUnit;
using testing::random_matrix;
using testing::Recorder;
using testing::within;

constexpr Real kInf = std::numeric_limits<Real>::infinity();

struct SmallIndexer {
  static constexpr Index d = 7, rank = 6, heads = 3, j = 8;
  SmallIndexer() {
    config.index_n_heads = heads;
    config.index_head_dim = j;
    config.index_topk = 4;
    w.wq_b = as_weight(wq_b);
    w.weights_proj = as_weight(proj);
    w.compressor = {random_matrix(4, 2 * j, "ape"), as_weight(wkv), as_weight(wgate),
                    random_matrix(1, j, "norm")};
  }
  Mat wq_b = random_matrix(heads * j, rank, "wq_b");
  Mat proj = random_matrix(heads, d, "proj");
  Mat wkv = random_matrix(2 * j, d, "wkv");
  Mat wgate = random_matrix(2 * j, d, "wgate");
  IndexerWeights w;
  ModelConfig config;
  Row frequencies{{1.0, 0.1}};
};

Tap tap_of(Recorder& recorder, Index s) {
  Tap tap(recorder);
  tap.bind("s", s);
  return tap;
}

TEST(TopK, PicksTheLargestBestFirst) {
  const Mat scores{{1, 9, 5, 7}};

  EXPECT_EQ(top_k(scores, 3), (IntMat{{1, 3, 2}}));
}

TEST(TopK, GivesTiesToTheLowerIndex) {
  const Mat scores{{0, 2, 0, 2, 2}};

  EXPECT_EQ(top_k(scores, 4), (IntMat{{1, 3, 4, 0}}));
}

TEST(TopK, NeverPicksMinusInfinityAndPadsWithMinusOne) {
  const Mat scores{{-kInf, -3, -kInf}, {-kInf, -kInf, -kInf}};

  EXPECT_EQ(top_k(scores, 2), (IntMat{{1, -1}, {-1, -1}}));
}

TEST(TopK, IsNoWiderThanTheScores) {
  const Mat scores{{1, 2}};

  EXPECT_EQ(top_k(scores, 9), (IntMat{{1, 0}}));
  EXPECT_EQ(top_k(Mat(3, 0), 9).cols(), 0);
}

TEST(TopK, HasTheScoresOfASort) {
  Mat scores = (random_matrix(20, 31, "scores") * 3).array().round();  // many ties

  const IntMat chosen = top_k(scores, 11);

  for (Index i = 0; i < scores.rows(); ++i) {
    std::vector<Real> order(scores.row(i).begin(), scores.row(i).end());
    std::sort(order.begin(), order.end(), std::greater<>());
    for (Index k = 0; k < 11; ++k)
      EXPECT_EQ(scores(i, chosen(i, k)), order[static_cast<std::size_t>(k)]);
    std::vector<std::int32_t> once(chosen.row(i).begin(), chosen.row(i).end());
    std::sort(once.begin(), once.end());
    EXPECT_EQ(std::adjacent_find(once.begin(), once.end()), once.end());
  }
}

// From torch.topk on a CPU (PyTorch 2.15): more candidates than 64 k, and fewer.
TEST(TopK, TiesFallAsInTheOfficialCodeOnACpu) {
  Mat few(1, 200), many(1, 24), masked(1, 40);
  for (Index i = 0; i < 200; ++i) few(0, i) = static_cast<Real>(i * 7919 % 4);
  for (Index i = 0; i < 24; ++i) many(0, i) = static_cast<Real>((i * 7919 + i * i) % 4);
  for (Index i = 0; i < 40; ++i)
    masked(0, i) = i % 5 == 4 ? -INFINITY : static_cast<Real>(i * i * 31 % 3);

  EXPECT_EQ(top_k(few, 3, Ties::as_torch), (IntMat{{9, 1, 5}}));
  EXPECT_EQ(top_k(many, 9, Ties::as_torch), (IntMat{{23, 15, 14, 18, 11, 10, 19, 2, 3}}));
  EXPECT_EQ(top_k(masked, 33, Ties::as_torch),
            (IntMat{{38, 7,  8, 5,  10, 11, 2,  13, 16, 17, 20, 23, 25, 22, 26, 28, 31,
                     32, 35, 1, 37, 18, 21, 27, 12, 6,  30, 33, 3,  36, 0,  15, -1}}));
}

TEST(TopKMargin, IsTheGapBetweenLastChosenAndFirstRejected) {
  // Row 0: 9, 7 | 5: gap 2. Row 1: a tie at the cut. Row 2: nothing rejected.
  const Mat scores{{1, 9, 5, 7}, {3, 3, 3, 0}, {1, -kInf, 2, -kInf}};
  const IntMat chosen = top_k(scores, 2);

  const Mat margin = top_k_margin(scores, chosen);

  EXPECT_EQ(margin, (Mat{{2}, {0}, {kInf}}));
}

TEST(VisibleEntries, CountsAQuerysOwnGroupOnceTheQueryClosesIt) {
  EXPECT_EQ(visible_entries(0, 4), 0);
  EXPECT_EQ(visible_entries(2, 4), 0);
  EXPECT_EQ(visible_entries(3, 4), 1);
  EXPECT_EQ(visible_entries(6, 4), 1);
  EXPECT_EQ(visible_entries(7, 4), 2);
  EXPECT_EQ(visible_entries(127, 128), 1);
}

TEST(Indexer, ScoresByTheReluOfEachHeadOnPaper) {
  // Two heads of one dim, no rope; the keys come from a compressor with equal scores, wkv's second
  // half the identity, and a norm: eps 0 makes each key sign(x) = 1 (x > 0).
  // qr = 3 -> q = [1*3, -2*3]; relu(q k) = [3, 0]. Weights (1*1, 5*1) / sqrt(1 * 2).
  // Score = 3 / sqrt 2 for every visible entry: none before position 3.
  ModelConfig config;
  config.index_n_heads = 2;
  config.index_head_dim = 1;
  config.index_topk = 1;
  config.norm_eps = 0;
  const Mat wq_b{{1}, {-2}};
  const Mat proj{{1}, {5}};
  const Mat wkv{{0}, {1}};
  const Mat wgate = Mat::Zero(2, 1);
  const IndexerWeights w{as_weight(wq_b),
                         as_weight(proj),
                         {Mat::Zero(4, 2), as_weight(wkv), as_weight(wgate), Row::Ones(1)}};
  CompressorCache cache(4, 1);
  Recorder recorder;

  const IntMat chosen = index(config, w, Row(0), Mat::Ones(5, 1), Mat::Constant(5, 1, 3), 0, cache,
                              tap_of(recorder, 5));

  const Real score = 3 / std::sqrt(Real(2));
  EXPECT_TRUE(within(recorder.matrix("index_score"),
                     Mat{{-kInf}, {-kInf}, {-kInf}, {score}, {score}}, 16 * kUnit));
  EXPECT_EQ(chosen, (IntMat{{-1}, {-1}, {-1}, {0}, {0}}));
}

TEST(Indexer, ScoresEqualTheScalarTwin) {
  const SmallIndexer in;
  const Index s = 19;
  const Mat x = random_matrix(s, SmallIndexer::d, "x");
  const Mat qr = random_matrix(s, SmallIndexer::rank, "qr");
  CompressorCache cache(4, SmallIndexer::j);
  Recorder recorder;
  recorder.keep_errors = true;

  index(in.config, in.w, in.frequencies, x, qr, 0, cache, tap_of(recorder, s));

  const Mat q = recorder.matrix("q");
  const Mat weights = recorder.matrix("weights");
  const Mat keys = recorder.matrix("compressor.entry");
  ASSERT_EQ(keys.rows(), 4);
  Mat expected(s, 4);
  for (Index t = 0; t < s; ++t) {
    for (Index e = 0; e < 4; ++e) {
      Real score = 0;
      for (Index h = 0; h < SmallIndexer::heads; ++h) {
        Real dot = 0;
        for (Index i = 0; i < SmallIndexer::j; ++i)
          dot += q(t, h * SmallIndexer::j + i) * keys(e, i);
        score += weights(t, h) * (dot > 0 ? dot : 0);
      }
      expected(t, e) = (e + 1) * 4 <= t + 1 ? score : -kInf;
    }
  }
  EXPECT_TRUE(
      within(recorder.matrix("index_score"), expected, 2 * kUnit * recorder.error("index_score")));
}

TEST(Indexer, FoldsBothScalesIntoTheHeadWeights) {
  const SmallIndexer in;
  const Mat x = random_matrix(5, SmallIndexer::d, "x");
  CompressorCache cache(4, SmallIndexer::j);
  Recorder recorder;

  index(in.config, in.w, in.frequencies, x, random_matrix(5, SmallIndexer::rank, "qr"), 0, cache,
        tap_of(recorder, 5));

  const Mat expected =
      x * in.proj.transpose() / std::sqrt(Real(SmallIndexer::j * SmallIndexer::heads));
  EXPECT_TRUE(within(recorder.matrix("weights"), expected, 1e-14));
}

TEST(Indexer, ChoosesTheSameWhetherOrNotSomeoneLooks) {
  const SmallIndexer in;
  const Index s = 75;  // more than two tiles of queries
  const Mat x = random_matrix(s, SmallIndexer::d, "x");
  const Mat qr = random_matrix(s, SmallIndexer::rank, "qr");
  CompressorCache watched(4, SmallIndexer::j), alone(4, SmallIndexer::j);
  Recorder recorder;

  const IntMat a = index(in.config, in.w, in.frequencies, x, qr, 0, watched, tap_of(recorder, s));
  const IntMat b = index(in.config, in.w, in.frequencies, x, qr, 0, alone, {});

  EXPECT_EQ(a, b);
  EXPECT_EQ(Mat(watched.entries.view()), Mat(alone.entries.view()));
}

TEST(Indexer, ChoosesTheBestVisibleEntriesAndNoOthers) {
  const SmallIndexer in;
  const Index s = 40;
  CompressorCache cache(4, SmallIndexer::j);
  Recorder recorder;

  const IntMat chosen =
      index(in.config, in.w, in.frequencies, random_matrix(s, SmallIndexer::d, "x"),
            random_matrix(s, SmallIndexer::rank, "qr"), 0, cache, tap_of(recorder, s));

  const Mat scores = recorder.matrix("index_score");
  for (Index t = 0; t < s; ++t) {
    const Index visible = (t + 1) / 4;
    std::set<int> set;
    Real least = kInf;
    for (const int e : chosen.row(t)) {
      if (e < 0) continue;
      EXPECT_LT(e, visible);
      set.insert(e);
      least = std::min(least, scores(t, e));
    }
    EXPECT_EQ(std::ssize(set), std::min<Index>(visible, 4));
    for (Index e = 0; e < visible; ++e) {
      if (!set.contains(static_cast<int>(e))) {
        EXPECT_LE(scores(t, e), least);
      }
    }
  }
}

TEST(Indexer, InALaterCallSeesEarlierEntries) {
  const SmallIndexer in;
  const Mat x = random_matrix(21, SmallIndexer::d, "x");
  const Mat qr = random_matrix(21, SmallIndexer::rank, "qr");
  CompressorCache whole(4, SmallIndexer::j), split(4, SmallIndexer::j);

  const IntMat all = index(in.config, in.w, in.frequencies, x, qr, 0, whole, {});
  index(in.config, in.w, in.frequencies, x.topRows(20), qr.topRows(20), 0, split, {});
  const IntMat last =
      index(in.config, in.w, in.frequencies, x.bottomRows(1), qr.bottomRows(1), 20, split, {});

  EXPECT_EQ(last, all.bottomRows(1));
}

}  // namespace
}  // namespace dsv4::reference
