// SPDX-License-Identifier: Apache-2.0
// What must not matter: later tokens, the order of experts, threads, watching, other sequences, an
// earlier prompt.
#include <algorithm>
#include <array>
#include <cstring>
#include <gtest/gtest.h>
#include <numeric>
#include <omp.h>

#include "support/random_config.hpp"
#include "support/sequence.hpp"

namespace dsv4 {
namespace {

using testing::close;
using testing::expect_same_sequence;
using testing::identical;
using testing::Ids;
using testing::LoadedModel;
using testing::RandomTensors;
using testing::Recorder;
using testing::run;
using testing::Sequence;

class Invariance : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  std::uint64_t seed() const { return GetParam(); }
  const ModelConfig c = testing::random_config(seed(), 8);
};

TEST_P(Invariance, LaterTokensChangeNothingBeforeThem) {
  const LoadedModel m(c, seed());
  const Ids ids = testing::random_ids(c, 40, seed());
  const std::vector<std::int64_t> ends = {13, 14, 30, 39};
  const Sequence base = run(m, ids, ends);

  for (const std::int64_t j : {1, 13, 14, 22, 38}) {
    SCOPED_TRACE("token " + std::to_string(j));
    Ids other = ids;
    auto& id = other[static_cast<std::size_t>(j)];
    id = static_cast<std::int32_t>((id + 1) % c.vocab_size);
    const Sequence changed = run(m, other, ends);

    // Calls that end before the token are the same bits; within its own call the earlier rows stand
    // in another batch of the same expert, so a sum may be taken in another order.
    const auto call = std::ranges::upper_bound(ends, j);
    const Index exact = call == ends.begin() ? 0 : *(call - 1);
    EXPECT_TRUE(identical(changed.streams.topRows(exact), base.streams.topRows(exact)));
    EXPECT_TRUE(close(changed.streams.topRows(j), base.streams.topRows(j), 1e-13));
    EXPECT_FALSE(close(changed.streams.row(j), base.streams.row(j), 1e-6))
        << "the token itself changes";
  }
}

TEST_P(Invariance, OrderOfExpertsChangesNothing) {
  const RandomTensors tensors(c, seed());
  RandomTensors permuted = tensors;
  std::vector<std::int64_t> to(static_cast<std::size_t>(c.n_routed_experts));  // old -> new number
  std::iota(to.begin(), to.end(), 0);
  std::ranges::rotate(to, to.begin() + 1);
  std::swap(to.front(), to.back());
  for (const TensorSpec& spec : manifest(c)) {
    const auto& from = tensors.bytes.at(spec.name);
    auto& out = permuted.bytes.at(spec.name);
    if (spec.name.ends_with("ffn.gate.weight") || spec.name.ends_with("ffn.gate.bias")) {
      const std::size_t row = from.size() / to.size();
      for (std::size_t e = 0; e < to.size(); ++e)
        std::memcpy(out.data() + static_cast<std::size_t>(to[e]) * row, from.data() + e * row, row);
    } else if (spec.name.ends_with("tid2eid")) {
      for (std::size_t i = 0; i < from.size(); i += 8) {
        std::int64_t e = 0;
        std::memcpy(&e, from.data() + i, 8);
        std::memcpy(out.data() + i, &to[static_cast<std::size_t>(e)], 8);
      }
    } else if (const auto at = spec.name.find(".experts."); at != std::string::npos) {
      const auto dot = spec.name.find('.', at + 9);
      const auto e = static_cast<std::size_t>(std::stoll(spec.name.substr(at + 9, dot - at - 9)));
      const std::string target =
          spec.name.substr(0, at + 9) + std::to_string(to[e]) + spec.name.substr(dot);
      permuted.bytes.at(target) = from;
    }
  }
  const LoadedModel a(tensors), b(permuted);
  const Ids ids = testing::random_ids(c, 30, seed());
  reference::KvCache cache_a = a.model.new_cache(), cache_b = b.model.new_cache();
  Recorder ra, rb;

  a.model.forward(ids, 29, cache_a, Tap(ra), testing::with_mtp());
  b.model.forward(ids, 29, cache_b, Tap(rb), testing::with_mtp());

  for (const auto& [name, _] : ra.records) {
    if (!name.ends_with("ffn.out")) continue;
    EXPECT_TRUE(close(rb.matrix(name), ra.matrix(name), 1e-13)) << name;
  }
  EXPECT_TRUE(close(rb.matrix("logits"), ra.matrix("logits"), 1e-13));
}

TEST_P(Invariance, ThreadsChangeNoBit) {
  const LoadedModel m(c, seed());
  const Ids ids = testing::random_ids(c, 40, seed());
  const std::vector<std::int64_t> ends = {30, 31, 39};
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Sequence one = run(m, ids, ends);

  for (const int n : {2, 3}) {
    omp_set_num_threads(n);
    expect_same_sequence(c, run(m, ids, ends), one, 0);
  }
  omp_set_num_threads(threads);
}

TEST_P(Invariance, WatchingChangesNoBit) {
  const LoadedModel m(c, seed());
  const Ids ids = testing::random_ids(c, 40, seed());
  Sequence watched(m.model.new_cache()), alone(m.model.new_cache());

  for (const std::int64_t end : {30, 31, 39}) {
    Recorder all;
    all.keep_errors = true;
    watched.logits = m.model.forward(ids, end, watched.cache, Tap(all), testing::with_mtp()).logits;
    alone.logits = m.model.forward(ids, end, alone.cache, {}, testing::with_mtp()).logits;

    EXPECT_TRUE(identical(watched.logits, alone.logits));
  }
  testing::expect_same_caches(c, watched.cache, alone.cache, 0);
}

TEST_P(Invariance, InterleavedSequencesAreTheSameBitsAsAlone) {
  const LoadedModel m(c, seed());
  const std::vector<std::int64_t> ends = {9, 10, 24, 31};
  std::vector<Ids> ids;
  std::vector<Sequence> together, alone;
  for (std::uint64_t i = 0; i < 3; ++i) {
    ids.push_back(testing::random_ids(c, 32, 100 * seed() + i));
    alone.push_back(run(m, ids.back(), ends));
    together.emplace_back(m.model.new_cache());
  }

  for (const std::int64_t end : ends) {
    for (std::size_t i = 0; i < 3; ++i)
      together[i].logits =
          m.model.forward(ids[i], end, together[i].cache, {}, testing::with_mtp()).logits;
  }

  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(identical(together[i].logits, alone[i].logits));
    testing::expect_same_caches(c, together[i].cache, alone[i].cache, 0);
  }
}

TEST_P(Invariance, ASecondPromptStartsFresh) {
  const LoadedModel m(c, seed());
  const Ids second = testing::random_ids(c, 4, seed() + 7);  // shorter than a group of four
  const Sequence expected = run(m, second, {1, 2, 3});

  run(m, testing::random_ids(c, 40, seed()), {20, 39});
  const Sequence after = run(m, second, {1, 2, 3});

  expect_same_sequence(c, after, expected, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Invariance, ::testing::Range<std::uint64_t>(31, 37),
                         ::testing::PrintToStringParamName());

TEST(Invariance, ThreadsChangeNoBitWhereTheWorkIsShared) {
  // Products, scores and queries large enough that several threads take part.
  ModelConfig c = testing::small_config();
  c.dim = 512;
  c.moe_inter_dim = 256;
  c.n_heads = 12;
  c.head_dim = 64;
  c.window_size = 64;
  c.index_n_heads = 16;
  c.index_head_dim = 64;
  const LoadedModel m(c, 1);
  const Ids ids = testing::random_ids(c, 301, 1);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Sequence one = run(m, ids, {250, 300});

  for (const int n : {2, 3}) {
    omp_set_num_threads(n);
    expect_same_sequence(c, run(m, ids, {250, 300}), one, 0);
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace dsv4
