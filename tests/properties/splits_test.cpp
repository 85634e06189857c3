// SPDX-License-Identifier: Apache-2.0
// Any split of a prompt into calls gives the same caches, the same logits and the same decisions.
#include <gtest/gtest.h>
#include <numeric>

#include "support/random_config.hpp"
#include "support/sequence.hpp"

namespace dsv4 {
namespace {

using testing::expect_same_sequence;
using testing::Ids;
using testing::LoadedModel;
using testing::run;
using testing::Sequence;

constexpr Real kSame = 1e-12;  // of the largest magnitude

std::vector<std::int64_t> ones(std::int64_t tokens) {
  std::vector<std::int64_t> ends(static_cast<std::size_t>(tokens));
  std::iota(ends.begin(), ends.end(), 1);
  return ends;
}

std::vector<std::int64_t> random_chunks(std::int64_t tokens, std::uint64_t seed) {
  testing::Draw draw(seed);
  std::vector<std::int64_t> ends;
  for (std::int64_t end = 0; end < tokens;)
    ends.push_back(end = std::min(tokens, end + draw.between(1, 24)));
  return ends;
}

class Splits : public ::testing::TestWithParam<std::uint64_t> {};

// Ratios 8 and 16 with windows of 4 to 16: every boundary is crossed several times in 67 tokens.
TEST_P(Splits, ChangeNothingInARandomSmallModel) {
  const std::uint64_t seed = GetParam();
  const ModelConfig c = testing::random_config(seed, seed % 2 == 0 ? 8 : 16);
  SCOPED_TRACE(testing::describe(c));
  const LoadedModel m(c, seed);
  constexpr std::int64_t kTokens = 67;
  const Ids ids = testing::random_ids(c, kTokens + 1, seed);
  const Sequence whole = run(m, ids, {kTokens});

  std::vector<std::vector<std::int64_t>> splits = {ones(kTokens), random_chunks(kTokens, seed)};
  const std::int64_t w = c.window_size;
  const std::int64_t r = seed % 2 == 0 ? 8 : 16;
  for (const std::int64_t at : {std::int64_t{3}, std::int64_t{4}, std::int64_t{5}, r - 1, r, r + 1,
                                2 * r - 1, 2 * r + 1, w - 1, w, w + 1})
    splits.push_back({at, kTokens});
  for (const auto& ends : splits) {
    SCOPED_TRACE("first call ends at " + std::to_string(ends.front()) +
                 ", calls: " + std::to_string(ends.size()));
    expect_same_sequence(c, run(m, ids, ends), whole, kSame);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Splits, ::testing::Range<std::uint64_t>(1, 13),
                         ::testing::PrintToStringParamName());

class TrueRatioSplits : public ::testing::TestWithParam<std::uint64_t> {};

// The released model's ratio 128 and window 128, around each of their multiples.
TEST_P(TrueRatioSplits, ChangeNothingWithRatioAndWindow128) {
  const std::uint64_t seed = GetParam();
  ModelConfig c = testing::random_config(seed, 128);
  c.window_size = 128;
  c.index_topk = 16;
  SCOPED_TRACE(testing::describe(c));
  const LoadedModel m(c, seed);
  constexpr std::int64_t kTokens = 262;
  const Ids ids = testing::random_ids(c, kTokens + 1, seed);
  const Sequence whole = run(m, ids, {kTokens});

  std::vector<std::vector<std::int64_t>> splits = {ones(kTokens), random_chunks(kTokens, seed)};
  for (const std::int64_t at : {127, 128, 129, 255, 256, 257}) splits.push_back({at, kTokens});
  splits.push_back({127, 128, 129, 255, 256, 257, kTokens});
  for (const auto& ends : splits) {
    SCOPED_TRACE("first call ends at " + std::to_string(ends.front()) +
                 ", calls: " + std::to_string(ends.size()));
    expect_same_sequence(c, run(m, ids, ends), whole, kSame);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, TrueRatioSplits, ::testing::Values(21, 22, 23, 24),
                         ::testing::PrintToStringParamName());

TEST(Splits, OfEveryLengthEndInTheSameLogits) {
  // A prompt of n tokens at once against n - 1 tokens and one more: every n, so every phase of
  // every group and of the window.
  const ModelConfig c = testing::random_config(5, 8);
  const LoadedModel m(c, 5);
  const Ids ids = testing::random_ids(c, 41, 5);
  Sequence stepped(m.model.new_cache());

  for (std::int64_t n = 1; n <= 40; ++n) {
    SCOPED_TRACE(n);
    reference::KvCache cache = m.model.new_cache();
    const auto whole = m.model.forward(ids, n, cache, {}, testing::with_mtp());
    const auto step = m.model.forward(ids, n, stepped.cache, {}, testing::with_mtp());

    EXPECT_TRUE(testing::close(step.logits, whole.logits, kSame));
    testing::expect_same_caches(c, stepped.cache, cache, kSame);
  }
}

}  // namespace
}  // namespace dsv4
