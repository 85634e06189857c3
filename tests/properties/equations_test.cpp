// SPDX-License-Identifier: Apache-2.0
// Facts that hold for whatever the model computes: doubly stochastic mixing, sinks, rotations,
// routing weights, the growth of caches.
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>

#include "reference/hadamard.hpp"
#include "reference/rope.hpp"
#include "support/random_config.hpp"
#include "support/sequence.hpp"

namespace dsv4 {
namespace {

using testing::close;
using testing::Ids;
using testing::LoadedModel;
using testing::RandomTensors;
using testing::Recorder;
using testing::run;

constexpr std::int64_t kTokens = 37;

class Equations : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  Equations() {
    reference::KvCache cache = m.model.new_cache();
    const Ids ids = testing::random_ids(c, kTokens + 1, GetParam());
    m.model.forward(ids, kTokens, cache, Tap(r), testing::with_mtp());
  }
  // Calls check(name, values) for every tap whose name ends so.
  template <class Check>
  int for_each(std::string_view ending, Check check) const {
    int count = 0;
    for (const auto& [name, _] : r.records) {
      if (!name.ends_with(ending)) continue;
      check(name, r.matrix(name));
      ++count;
    }
    return count;
  }

  const ModelConfig c = testing::random_config(GetParam(), 8);
  const LoadedModel m{c, GetParam()};
  Recorder r;
};

TEST_P(Equations, ColumnsOfCombSumToOneWithinEpsilon) {
  const Index n = c.hc_mult;

  const int seen = for_each("comb", [&](const std::string& name, const Mat& comb) {
    for (Index s = 0; s < comb.rows(); ++s) {
      for (Index k = 0; k < n; ++k) {
        Real sum = 0;
        for (Index j = 0; j < n; ++j) {
          EXPECT_GT(comb(s, j * n + k), 0);
          sum += comb(s, j * n + k);
        }
        // The last step divides by sum + eps, where the sum is between 1/n and n.
        EXPECT_NEAR(sum, 1, 2 * c.hc_eps * static_cast<Real>(n)) << name;
      }
    }
  });

  EXPECT_EQ(seen, 2 * (c.n_layers + c.n_mtp_layers));
}

TEST_P(Equations, PreAndPostLieInTheRangeOfTheirSigmoids) {
  for_each("attn.pre", [&](const std::string&, const Mat& pre) {
    EXPECT_GT(pre.minCoeff(), c.hc_eps);
    EXPECT_LT(pre.maxCoeff(), 1 + c.hc_eps);
  });
  for_each("attn.post", [&](const std::string&, const Mat& post) {
    EXPECT_GT(post.minCoeff(), 0);
    EXPECT_LT(post.maxCoeff(), 2);
  });
}

TEST_P(Equations, RoutingWeightsSumToTheRouteScale) {
  const int seen = for_each("gate.weights", [&](const std::string& name, const Mat& w) {
    EXPECT_TRUE(close(w.rowwise().sum(), Mat::Constant(w.rows(), 1, c.route_scale), 1e-14)) << name;
    EXPECT_GT(w.minCoeff(), 0);
  });

  EXPECT_EQ(seen, c.n_layers + c.n_mtp_layers);
}

TEST_P(Equations, QueryHeadsHaveUnitMeanSquare) {
  for_each("q_normed", [&](const std::string& name, const Mat& q) {
    for (Index h = 0; h < c.n_heads; ++h) {
      const Mat head = q.middleCols(h * c.head_dim, c.head_dim);
      const Mat square = head.rowwise().squaredNorm() / static_cast<Real>(c.head_dim);
      EXPECT_TRUE(testing::within(square, Mat::Ones(q.rows(), 1), 1e-3)) << name;
      EXPECT_LE(square.maxCoeff(), 1 + 1e-12) << name;
    }
  });
}

TEST_P(Equations, RotationsKeepLengths) {
  for (const std::string block : {"layers.0.attn.", "layers.1.attn."}) {
    const Mat before = r.matrix(block + "q_normed");
    const Mat after = r.matrix(block + "q");

    EXPECT_TRUE(close(after.rowwise().norm(), before.rowwise().norm(), 1e-14));
    EXPECT_TRUE(close(r.matrix(block + "o_derotated").rowwise().norm(),
                      r.matrix(block + "o").rowwise().norm(), 1e-14));
  }
}

TEST_P(Equations, DerotationUndoesRotation) {
  const Mat x = testing::random_matrix(9, 3 * c.head_dim, "x");
  for (const std::int64_t ratio : {0, 4}) {
    const Row f = reference::rope_frequencies(c, ratio);
    const reference::Positions at{1000000, 3};

    const Mat back =
        reference::rope(reference::rope(x, 3, f, at), 3, f, at, reference::Rotation::inverse);

    EXPECT_TRUE(close(back, x, 1e-15));
  }
}

TEST_P(Equations, HadamardOfRotatedIndexQueriesGivesTheUnrotatedOnes) {
  for_each("indexer.q_rotated", [&](const std::string& name, const Mat& q) {
    const std::string roped = name.substr(0, name.size() - 7) + "roped";
    EXPECT_TRUE(close(reference::hadamard(q, c.index_n_heads), r.matrix(roped), 1e-14)) << name;
  });
}

TEST_P(Equations, TheLogOfTheDenominatorIsAboveTheSink) {
  for_each("attn.lse", [&](const std::string& name, const Mat& lse) {
    const Row sink = m.checkpoint.vector(name.substr(0, name.size() - 3) + "attn_sink");
    for (Index s = 0; s < lse.rows(); ++s)
      EXPECT_TRUE((lse.row(s).array() > sink.array()).all()) << name;
  });
}

TEST_P(Equations, CachesGrowByOneRowPerGroupOfTokens) {
  reference::KvCache cache = m.model.new_cache();
  const Ids ids = testing::random_ids(c, kTokens + 1, GetParam());

  for (const std::int64_t end : {std::int64_t{1}, std::int64_t{7}, std::int64_t{8}, kTokens}) {
    m.model.forward(ids, end, cache, {}, testing::with_mtp());

    EXPECT_EQ(cache.length, end);
    for (std::size_t i = 0; i < cache.blocks.size(); ++i) {
      const std::int64_t ratio = c.ratio(static_cast<std::int64_t>(i));
      EXPECT_EQ(cache.blocks[i].compressor.size(), ratio != 0 ? 1U : 0U);
      EXPECT_EQ(cache.blocks[i].indexer.size(), ratio == 4 ? 1U : 0U);
      for (const auto& rows : {cache.blocks[i].compressor, cache.blocks[i].indexer}) {
        if (rows.empty()) continue;
        EXPECT_EQ(rows.front().entries.count(), end / ratio);
        EXPECT_EQ(rows.front().state.kv.rows(), ratio == 4 ? 8 : ratio);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Equations, ::testing::Range<std::uint64_t>(50, 60),
                         ::testing::PrintToStringParamName());

TEST(Equations, AVeryNegativeSinkGivesPlainSoftmaxAndAHugeOneGivesNothing) {
  const ModelConfig c = testing::small_config();
  for (const float sink : {-1e30F, 1e30F}) {
    RandomTensors tensors(c, 3);
    for (auto& [name, bytes] : tensors.bytes) {
      if (!name.ends_with("attn_sink")) continue;
      for (std::size_t i = 0; i < bytes.size(); i += 4) std::memcpy(bytes.data() + i, &sink, 4);
    }
    const LoadedModel m(tensors);
    const Ids ids = testing::random_ids(c, 1, 1);
    reference::KvCache cache = m.model.new_cache();
    Recorder r;

    m.model.forward(ids, 1, cache, Tap(r));

    // One token attends to itself alone: without a sink its output is its own value.
    const Mat expected = sink < 0 ? Mat(r.matrix("layers.0.attn.kv").replicate(1, c.n_heads))
                                  : Mat::Zero(1, c.n_heads * c.head_dim);
    EXPECT_TRUE(testing::identical(r.matrix("layers.0.attn.o"), expected));
  }
}

}  // namespace
}  // namespace dsv4
