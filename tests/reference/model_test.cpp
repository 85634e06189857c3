// SPDX-License-Identifier: Apache-2.0
// The whole model: its ends (embedding, head, MTP), partial runs, what it refuses.
#include "reference/model.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <string>

#include "core/error.hpp"
#include "reference/linear.hpp"
#include "reference/rms_norm.hpp"
#include "support/matrices.hpp"
#include "support/random_model.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::close;
using testing::identical;
using testing::LoadedModel;
using testing::random_ids;
using testing::Recorder;
using testing::small_config;

// Row `row` of a matrix of the checkpoint.
Row weight_row(const Checkpoint& c, const std::string& stem, Index row) {
  const Weight w = c.matrix(stem);
  Row out(w.cols);
  dequantize(w, row, 1, 0, w.cols, out.data(), w.cols);
  return out;
}

TEST(Model, EmbedsATokenIntoEveryStream) {
  const LoadedModel m(small_config(), 1);
  const auto ids = random_ids(m.config(), 3, 1);
  KvCache cache = m.model.new_cache();
  Recorder r;

  m.model.forward(ids, 3, cache, Tap(r));

  for (Index i = 0; i < 3; ++i) {
    const Row expected = weight_row(m.checkpoint, "embed", ids[static_cast<std::size_t>(i)]);
    EXPECT_TRUE(identical(r.matrix("embed").row(i), expected));
  }
  // The mixes of layer 0 see n copies: their size is that of the n times repeated vector.
  const Weight fn = m.checkpoint.matrix("layers.0.hc_attn_fn");
  const Mat streams = r.matrix("embed").replicate(1, m.config().hc_mult);
  const Mat mixes = inverse_rms(streams, m.config().norm_eps).asDiagonal() * linear(streams, fn);
  EXPECT_TRUE(identical(r.matrix("layers.0.hc_attn.mixes"), mixes));
}

TEST(Model, LogitsAreTheHeadOfTheLastNormedRow) {
  const LoadedModel m(small_config(), 2);
  const auto ids = random_ids(m.config(), 11, 2);
  KvCache cache = m.model.new_cache();
  Recorder r;

  const Output out = m.model.forward(ids, 11, cache, Tap(r));

  const Mat last = r.matrix("norm.out").bottomRows(1);
  ASSERT_EQ(out.logits.size(), m.config().vocab_size);
  for (const Index v : {0, 17, 49}) {
    EXPECT_NEAR(out.logits(v), last.row(0).dot(weight_row(m.checkpoint, "head", v)), 1e-12);
  }
  EXPECT_TRUE(close(r.matrix("logits_all").bottomRows(1), out.logits, 1e-13));
  EXPECT_TRUE(identical(r.matrix("logits"), out.logits));
}

TEST(Model, LogprobsNormaliseTheLogitsOfTheNextId) {
  const LoadedModel m(small_config(), 2);
  const auto ids = random_ids(m.config(), 9, 2);
  KvCache cache = m.model.new_cache();
  Recorder r;

  m.model.forward(ids, 9, cache, Tap(r));

  const Mat z = r.matrix("logits_all");
  const Mat p = r.matrix("logprobs");
  for (Index i = 0; i < 8; ++i) {
    long double sum = 0;
    for (Index v = 0; v < z.cols(); ++v) sum += std::exp(static_cast<long double>(z(i, v)));
    const auto next = static_cast<Index>(ids[static_cast<std::size_t>(i) + 1]);
    EXPECT_NEAR(p(i, 0), z(i, next) - static_cast<Real>(std::log(sum)), 1e-13);
  }
  EXPECT_TRUE(std::isnan(p(8, 0))) << "the id after the last one is not known";
}

TEST(Model, RunningLayersInPartsEqualsRunningThemAtOnce) {
  const LoadedModel m(small_config(), 3);
  const auto ids = random_ids(m.config(), 20, 3);
  KvCache whole = m.model.new_cache(), parts = m.model.new_cache();

  const Output expected = m.model.forward(ids, 20, whole);
  const Output first = m.model.forward(ids, 20, parts, {}, testing::up_to(1));
  parts.length = 0;  // the second part covers the same tokens
  ForwardOptions rest;
  rest.first_layer = 2;
  rest.streams = first.streams;
  const Output second = m.model.forward(ids, 20, parts, {}, rest);

  EXPECT_EQ(first.logits.size(), 0);
  EXPECT_TRUE(identical(second.streams, expected.streams));
  EXPECT_TRUE(identical(second.logits, expected.logits));
}

TEST(Model, LoadedUpToALayerGivesTheStreamsOfTheWholeModel) {
  const LoadedModel m(small_config(), 3);
  const Model part(m.checkpoint, 1);
  const auto ids = random_ids(m.config(), 12, 3);
  KvCache a = m.model.new_cache(), b = part.new_cache();

  const Output whole = m.model.forward(ids, 12, a, {}, testing::up_to(1));
  const Output alone = part.forward(ids, 12, b, {}, testing::up_to(1));

  EXPECT_TRUE(identical(alone.streams, whole.streams));
}

TEST(Mtp, SeesTheStreamsOfATokenAndTheEmbeddingOfTheNext) {
  const LoadedModel m(small_config(), 4);
  const auto ids = random_ids(m.config(), 8, 4);
  KvCache cache = m.model.new_cache();
  Recorder r;

  m.model.forward(ids, 7, cache, Tap(r), testing::with_mtp());

  const ModelConfig& c = m.config();
  const Row enorm = m.checkpoint.vector("mtp.0.enorm.weight");
  const Row hnorm = m.checkpoint.vector("mtp.0.hnorm.weight");
  const Mat streams = r.matrix("layers.3.hc_ffn.out");
  for (Index i = 0; i < 7; ++i) {
    const Row e = weight_row(m.checkpoint, "embed", ids[static_cast<std::size_t>(i) + 1]);
    const Mat e_out = linear(rms_norm(e, enorm, c.norm_eps), m.checkpoint.matrix("mtp.0.e_proj"));
    for (Index j = 0; j < c.hc_mult; ++j) {
      const Mat h = rms_norm(streams.row(i).segment(j * c.dim, c.dim), hnorm, c.norm_eps);
      const Mat expected = linear(h, m.checkpoint.matrix("mtp.0.h_proj")) + e_out;
      EXPECT_TRUE(close(r.matrix("mtp.0.x").row(i).segment(j * c.dim, c.dim), expected, 1e-13))
          << "row " << i << " stream " << j;
    }
  }
  EXPECT_EQ(r.at("mtp.0.logits").values.size(), static_cast<std::size_t>(c.vocab_size));
}

TEST(Mtp, LeavesOutTheRowWhoseNextIdIsNotKnown) {
  const LoadedModel m(small_config(), 4);
  const auto ids = random_ids(m.config(), 7, 4);
  KvCache cache = m.model.new_cache();
  Recorder r;

  m.model.forward(ids, 7, cache, Tap(r), testing::with_mtp());

  EXPECT_EQ(r.at("mtp.0.x").shape.front(), 6);
  EXPECT_FALSE(r.records.contains("mtp.0.logits")) << "logits belong to the last position";
}

TEST(Mtp, ChangesNothingInTheBackbone) {
  const LoadedModel m(small_config(), 4);
  const auto ids = random_ids(m.config(), 9, 4);
  KvCache a = m.model.new_cache(), b = m.model.new_cache();

  const Output with = m.model.forward(ids, 8, a, {}, testing::with_mtp());
  const Output without = m.model.forward(ids, 8, b);

  EXPECT_TRUE(identical(with.logits, without.logits));
  EXPECT_TRUE(identical(with.streams, without.streams));
}

TEST(Model, ReadsIdsAfterTheEndForMtpOnly) {
  const LoadedModel m(small_config(), 5);
  auto ids = random_ids(m.config(), 10, 5);
  KvCache a = m.model.new_cache(), b = m.model.new_cache();

  const Output first = m.model.forward(ids, 6, a);
  ids[6] = (ids[6] + 1) % 50;
  const Output second = m.model.forward(ids, 6, b);

  EXPECT_TRUE(identical(first.logits, second.logits));
}

TEST(Model, RefusesAnEmptyCallAndMissingIds) {
  const LoadedModel m(small_config(), 1);
  const auto ids = random_ids(m.config(), 4, 1);
  KvCache cache = m.model.new_cache();
  m.model.forward(ids, 2, cache);

  EXPECT_THROW(m.model.forward(ids, 2, cache), UsageError);
  EXPECT_THROW(m.model.forward(ids, 5, cache), UsageError);
  EXPECT_EQ(cache.length, 2) << "a refused call leaves the sequence as it was";
}

TEST(Model, RefusesAnIdOutsideTheVocabulary) {
  const LoadedModel m(small_config(), 1);

  for (const std::int32_t bad : {-1, 50}) {
    const std::vector<std::int32_t> ids = {1, 2, bad};
    KvCache cache = m.model.new_cache();
    try {
      m.model.forward(ids, 3, cache);
      FAIL() << "accepted " << bad;
    } catch (const UsageError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(std::to_string(bad)), std::string::npos) << text;
      EXPECT_NE(text.find("position 2"), std::string::npos) << text;
      EXPECT_NE(text.find("49"), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace dsv4::reference
