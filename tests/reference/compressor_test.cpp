// SPDX-License-Identifier: Apache-2.0
// Compressed entries against two plain-loop twins: all groups of a prompt at once (the official
// prefill) and one token at a time with a carried state (the official decode).
#include "reference/compressor.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

#include "reference/error_bound.hpp"
#include "reference/hadamard.hpp"
#include "reference/rms_norm.hpp"
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

// softmax(score) . value over some slots of one channel
Real pool(const std::vector<Real>& score, const std::vector<Real>& value) {
  Real most = -kInf;
  for (const Real z : score) most = std::max(most, z);
  Real sum = 0;
  Real weighted = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    const Real e = std::exp(score[i] - most);
    sum += e;
    weighted += e * value[i];
  }
  return weighted / sum;
}

// All complete groups at once. K[s, w], Z[s, w] (without the position bias) -> [entries, c].
Mat prefill_twin(const Mat& k, const Mat& z, const Mat& ape, Index ratio, Index c) {
  const bool overlap = ratio == 4;
  const Index groups = k.rows() / ratio;
  Mat out(groups, c);
  for (Index g = 0; g < groups; ++g) {
    for (Index channel = 0; channel < c; ++channel) {
      std::vector<Real> score, value;
      for (Index slot = 0; overlap && slot < ratio; ++slot) {
        const Index t = (g - 1) * ratio + slot;
        score.push_back(g == 0 ? -kInf : z(t, channel) + ape(slot, channel));
        value.push_back(g == 0 ? 0 : k(t, channel));
      }
      const Index half = overlap ? c + channel : channel;
      for (Index slot = 0; slot < ratio; ++slot) {
        const Index t = g * ratio + slot;
        score.push_back(z(t, half) + ape(slot, half));
        value.push_back(k(t, half));
      }
      out(g, channel) = pool(score, value);
    }
  }
  return out;
}

// One token a call, with the state buffers of the official code.
Mat decode_twin(const Mat& k, const Mat& z, const Mat& ape, Index ratio, Index c) {
  const bool overlap = ratio == 4;
  const Index off = overlap ? ratio : 0;
  Mat kv_state = Mat::Zero(off + ratio, k.cols());
  Mat score_state = Mat::Constant(off + ratio, k.cols(), -kInf);
  Mat out(k.rows() / ratio, c);
  for (Index t = 0; t < k.rows(); ++t) {
    for (Index i = 0; i < k.cols(); ++i) {
      kv_state(off + t % ratio, i) = k(t, i);
      score_state(off + t % ratio, i) = z(t, i) + ape(t % ratio, i);
    }
    if ((t + 1) % ratio != 0) continue;
    for (Index channel = 0; channel < c; ++channel) {
      std::vector<Real> score, value;
      for (Index row = 0; row < off; ++row) {
        score.push_back(score_state(row, channel));
        value.push_back(kv_state(row, channel));
      }
      for (Index row = off; row < off + ratio; ++row) {
        score.push_back(score_state(row, overlap ? c + channel : channel));
        value.push_back(kv_state(row, overlap ? c + channel : channel));
      }
      out(t / ratio, channel) = pool(score, value);
    }
    for (Index row = 0; row < off; ++row) {
      kv_state.row(row) = kv_state.row(off + row);
      score_state.row(row) = score_state.row(off + row);
    }
  }
  return out;
}

struct SmallCompressor {
  SmallCompressor(Index ratio, Index c, Index d)
      : wkv(random_matrix(GroupState::width(ratio, c), d, "wkv")),
        wgate(random_matrix(GroupState::width(ratio, c), d, "wgate", 0.5)),
        weights{random_matrix(ratio, GroupState::width(ratio, c), "ape"), as_weight(wkv),
                as_weight(wgate), random_matrix(1, c, "norm")} {}

  Mat wkv, wgate;
  CompressorWeights weights;
  ModelConfig config;
  Row frequencies{{1.0, 0.25}};
};

Tap tap_of(Recorder& recorder, Index s) {
  Tap tap(recorder);
  tap.bind("s", s);
  return tap;
}

TEST(Compressor, PoolsAGroupByItsSoftmaxOnPaper) {
  // One channel, ratio 2, values 1 and 3 of equal score but for the bias ln 3 of the second slot:
  // weights 1/4 and 3/4, pooled 1/4 + 9/4 = 5/2. Norm with eps 6: 5/2 / sqrt(25/4 + 6) = 5/7.
  const Mat wkv{{1}};
  const Mat wgate{{0}};
  const CompressorWeights w{Mat{{0}, {std::log(Real(3))}}, as_weight(wkv), as_weight(wgate),
                            Row::Ones(1)};
  ModelConfig config;
  config.norm_eps = 6;
  CompressorCache cache(2, 1);
  Recorder recorder;

  compress(config, 2, w, Row(0), EntryUse::attention, Mat{{1}, {3}}, 0, cache, tap_of(recorder, 2));

  EXPECT_TRUE(within(recorder.matrix("pooled"), Mat{{2.5}}, 8 * kUnit));
  EXPECT_TRUE(within(cache.entries.view(), Mat{{Real(5) / 7}}, 8 * kUnit));
}

TEST(Compressor, OfRatioFourPoolsFirstHalvesOfThePreviousGroupOnPaper) {
  // Values: first half x, second half 10 x; all scores equal. x = 1 ... 8.
  // Entry 0: mean of 10 ... 40 = 25. Entry 1: (1+2+3+4 + 50+60+70+80) / 8 = 33.75.
  const Mat wkv{{1}, {10}};
  const Mat wgate = Mat::Zero(2, 1);
  const CompressorWeights w{Mat::Zero(4, 2), as_weight(wkv), as_weight(wgate), Row::Ones(1)};
  CompressorCache cache(4, 1);
  Recorder recorder;
  const Mat x = Row::LinSpaced(8, 1, 8).transpose();

  compress(ModelConfig{}, 4, w, Row(0), EntryUse::attention, x, 0, cache, tap_of(recorder, 8));

  EXPECT_TRUE(within(recorder.matrix("pooled"), Mat{{25}, {33.75}}, 64 * kUnit));
}

class CompressorRatios : public ::testing::TestWithParam<Index> {};

TEST_P(CompressorRatios, OneCallEqualsTheOfficialPrefill) {
  const Index ratio = GetParam();
  const SmallCompressor in(ratio, 6, 5);
  const Index s = 3 * ratio + 3;
  const Mat x = random_matrix(s, 5, "x");
  CompressorCache cache(ratio, 6);
  Recorder recorder;
  recorder.keep_errors = true;

  compress(in.config, ratio, in.weights, in.frequencies, EntryUse::attention, x, 0, cache,
           tap_of(recorder, s));

  const Mat pooled =
      prefill_twin(recorder.matrix("kv_proj"), recorder.matrix("score"), in.weights.ape, ratio, 6);
  EXPECT_TRUE(within(recorder.matrix("pooled"), pooled, 2 * kUnit * recorder.error("pooled")));
  EXPECT_EQ(cache.entries.count(), 3);
}

TEST_P(CompressorRatios, OneTokenACallEqualsTheOfficialDecode) {
  const Index ratio = GetParam();
  const SmallCompressor in(ratio, 6, 5);
  const Index s = 3 * ratio + 1;
  const Mat x = random_matrix(s, 5, "x");
  CompressorCache cache(ratio, 6);
  Mat k(s, in.wkv.rows()), z(s, in.wkv.rows()), pooled(3, 6), bound(3, 6);

  for (Index t = 0; t < s; ++t) {
    Recorder recorder;
    recorder.keep_errors = true;
    compress(in.config, ratio, in.weights, in.frequencies, EntryUse::attention, x.row(t), t, cache,
             tap_of(recorder, 1));
    k.row(t) = recorder.matrix("kv_proj");
    z.row(t) = recorder.matrix("score");
    if ((t + 1) % ratio != 0) continue;
    pooled.row(t / ratio) = recorder.matrix("pooled");
    bound.row(t / ratio) = recorder.error("pooled");
  }

  EXPECT_TRUE(within(pooled, decode_twin(k, z, in.weights.ape, ratio, 6), 2 * kUnit * bound));
}

TEST_P(CompressorRatios, TheTwoOfficialFormulationsAgree) {
  const Index ratio = GetParam();
  const SmallCompressor in(ratio, 6, 5);
  const Mat k = random_matrix(3 * ratio, in.wkv.rows(), "k");
  const Mat z = random_matrix(3 * ratio, in.wkv.rows(), "z");

  EXPECT_TRUE(identical(prefill_twin(k, z, in.weights.ape, ratio, 6),
                        decode_twin(k, z, in.weights.ape, ratio, 6)));
}

TEST_P(CompressorRatios, AnEntryIsNormalisedThenRotatedToItsFirstPosition) {
  const Index ratio = GetParam();
  const SmallCompressor in(ratio, 6, 5);
  const Index start = 2 * ratio - 1;
  CompressorCache cache(ratio, 6);
  compress(in.config, ratio, in.weights, in.frequencies, EntryUse::attention,
           random_matrix(start, 5, "before"), 0, cache, {});
  Recorder recorder;

  compress(in.config, ratio, in.weights, in.frequencies, EntryUse::attention,
           random_matrix(ratio + 1, 5, "x"), start, cache, tap_of(recorder, ratio + 1));

  // Entries 1 and 2 stand at positions r and 2r: pair i is turned by that times f_i.
  const Mat normed = rms_norm(recorder.matrix("pooled"), in.weights.norm, in.config.norm_eps);
  EXPECT_TRUE(identical(recorder.matrix("normed"), normed));
  ASSERT_EQ(normed.rows(), 2);
  for (Index e = 0; e < 2; ++e) {
    for (Index i = 0; i < 2; ++i) {
      const Real angle = static_cast<Real>((e + 1) * ratio) * in.frequencies(i);
      const Real re = normed(e, 2 + 2 * i);
      const Real im = normed(e, 3 + 2 * i);
      EXPECT_NEAR(recorder.matrix("roped")(e, 2 + 2 * i),
                  re * std::cos(angle) - im * std::sin(angle), 1e-14);
      EXPECT_NEAR(recorder.matrix("roped")(e, 3 + 2 * i),
                  re * std::sin(angle) + im * std::cos(angle), 1e-14);
    }
  }
  EXPECT_TRUE(identical(recorder.matrix("entry"), recorder.matrix("roped")));
  EXPECT_TRUE(identical(cache.entries.view().bottomRows(2), recorder.matrix("entry")));
}

TEST_P(CompressorRatios, CarriesTheOpenGroupWithItsPositionBias) {
  const Index ratio = GetParam();
  const SmallCompressor in(ratio, 6, 5);
  const Index s = ratio + 3;
  CompressorCache cache(ratio, 6);
  Recorder recorder;

  compress(in.config, ratio, in.weights, in.frequencies, EntryUse::attention,
           random_matrix(s, 5, "x"), 0, cache, tap_of(recorder, s));

  const Index off = ratio == 4 ? 4 : 0;
  const Mat biased = recorder.matrix("score").bottomRows(3) + in.weights.ape.topRows(3);
  EXPECT_TRUE(
      identical(cache.state.kv.middleRows(off, 3), recorder.matrix("kv_proj").bottomRows(3)));
  EXPECT_TRUE(identical(cache.state.score.middleRows(off, 3), biased));
  if (off == 0) return;
  const Mat closed = recorder.matrix("score").topRows(4) + in.weights.ape;
  EXPECT_TRUE(identical(cache.state.kv.topRows(4), recorder.matrix("kv_proj").topRows(4)));
  EXPECT_TRUE(identical(cache.state.score.topRows(4), closed));
}

INSTANTIATE_TEST_SUITE_P(Ratios, CompressorRatios, ::testing::Values(4, 5, 8, 16, 128),
                         ::testing::PrintToStringParamName());

TEST(Compressor, CompletesNoEntryBeforeItsLastToken) {
  const SmallCompressor in(8, 6, 5);
  CompressorCache cache(8, 6);
  Recorder recorder;

  compress(in.config, 8, in.weights, in.frequencies, EntryUse::attention, random_matrix(7, 5, "x"),
           0, cache, tap_of(recorder, 7));

  EXPECT_EQ(cache.entries.count(), 0);
  EXPECT_EQ(recorder.records.count("pooled"), 0U);
}

TEST(Compressor, OfTheIndexerRotatesEntriesByTheHadamardTransform) {
  const SmallCompressor in(4, 8, 5);
  CompressorCache cache(4, 8);
  Recorder recorder;

  compress(in.config, 4, in.weights, in.frequencies, EntryUse::indexing, random_matrix(8, 5, "x"),
           0, cache, tap_of(recorder, 8));

  const Mat rotated = hadamard(recorder.matrix("roped"), 1);
  EXPECT_TRUE(identical(recorder.matrix("rotated"), rotated));
  EXPECT_TRUE(identical(cache.entries.view(), rotated));
}

}  // namespace
}  // namespace dsv4::reference
