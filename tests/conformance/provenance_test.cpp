// SPDX-License-Identifier: Apache-2.0
// Spans, followed by hand through stages that a trace lacks.
#include "conformance/provenance.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>

namespace dsv4::conformance {
namespace {

using Names = std::set<std::string>;

// Window, ratio 8, ratio 4, and an MTP block.
ModelConfig config() {
  ModelConfig c;
  c.n_layers = 3;
  c.n_mtp_layers = 1;
  c.n_hash_layers = 1;
  c.window_size = 4;
  c.compress_ratios = {0, 8, 4, 0};
  return c;
}

class ProvenanceTest : public ::testing::Test {
 protected:
  Names span(const std::string& tap, std::int64_t key) {
    const auto names = p_.span_names(p_.derive(tap, key).span);
    return {names.begin(), names.end()};
  }
  // The trace has rows a … b of this tap.
  void present(const std::string& tap, std::int64_t a, std::int64_t b) {
    exposed_.insert(tap);
    for (auto i = a; i <= b; ++i) p_.mark_present(tap, i);
  }
  // The reference computed rows a … b, in the order of the forward pass.
  void ours(const std::string& tap, std::int64_t a, std::int64_t b) {
    for (auto i = a; i <= b; ++i) p_.mark_ours(tap, i, p_.derive(tap, i));
  }

  ModelConfig config_ = config();
  Names exposed_;
  Provenance p_{config_, [this](const std::string& tap) { return exposed_.contains(tap); }};
};

TEST_F(ProvenanceTest, WithoutATraceEverythingComesFromTheIds) {
  ours("embed", 0, 0);
  ours("layers.0.hc_attn.mixes", 0, 0);
  EXPECT_EQ(span("layers.0.hc_attn.pre", 0), Names{"input_ids"});
  EXPECT_FALSE(p_.derive("layers.0.hc_attn.pre", 0).single);
  EXPECT_TRUE(p_.derive("embed", 0).single);
}

TEST_F(ProvenanceTest, ASpanEndsAtTheNearestStageOnEachPath) {
  present("layers.0.hc_ffn.out", 0, 0);
  present("layers.1.hc_attn.pre", 0, 0);
  ours("layers.1.hc_attn.x", 0, 0);
  ours("layers.1.attn_norm.out", 0, 0);
  const Names nearest{"layers.0.hc_ffn.out", "layers.1.hc_attn.pre"};
  EXPECT_EQ(span("layers.1.attn.wq_a.out", 0), nearest);
  EXPECT_FALSE(p_.derive("layers.1.attn.wq_a.out", 0).single);
  EXPECT_FALSE(p_.derive("layers.1.attn.wq_a.out", 0).inherited);
  EXPECT_TRUE(p_.derive("layers.1.hc_attn.x", 0).single);
  present("layers.1.attn_norm.out", 0, 0);
  EXPECT_EQ(span("layers.1.attn.wq_a.out", 0), Names{"layers.1.attn_norm.out"});
  EXPECT_TRUE(p_.derive("layers.1.attn.wq_a.out", 0).single);
}

TEST_F(ProvenanceTest, ARowIsInheritedThroughStagesOnlyWhereTheTraceHasOtherRows) {
  present("layers.0.attn.kv", 0, 3);
  present("layers.0.attn.q", 0, 9);
  ours("layers.0.attn.kv", 4, 4);
  // The window of 4 reaches back to position 4 from 4 … 7.
  present("layers.0.attn.kv", 5, 9);
  EXPECT_TRUE(p_.derive("layers.0.attn.o", 3).single);
  EXPECT_FALSE(p_.derive("layers.0.attn.o", 3).inherited);
  for (const std::int64_t position : {4, 5, 6, 7}) {
    EXPECT_TRUE(p_.derive("layers.0.attn.o", position).inherited) << position;
    EXPECT_FALSE(p_.derive("layers.0.attn.o", position).single) << position;
  }
  EXPECT_TRUE(p_.derive("layers.0.attn.o", 8).single);
  p_.mark_ours("layers.0.attn.o", 5, p_.derive("layers.0.attn.o", 5));
  EXPECT_TRUE(p_.derive("layers.0.attn.o_derotated", 5).inherited);
}

TEST_F(ProvenanceTest, AQueryReadsTheEntriesThatAreCompleteAtItsPosition) {
  present("layers.1.attn.q", 0, 20);
  present("layers.1.attn.kv", 0, 20);
  present("layers.1.attn.compressor.entry", 0, 0);
  ours("layers.1.attn.compressor.entry", 1, 1);
  EXPECT_EQ(span("layers.1.attn.o", 6), (Names{"layers.1.attn.q", "layers.1.attn.kv"}));
  const Names with_entries{"layers.1.attn.q", "layers.1.attn.kv", "layers.1.attn.compressor.entry"};
  EXPECT_EQ(span("layers.1.attn.o", 7), with_entries);
  EXPECT_TRUE(p_.derive("layers.1.attn.o", 14).single);
  EXPECT_FALSE(p_.derive("layers.1.attn.o", 15).single);
  EXPECT_TRUE(p_.derive("layers.1.attn.o", 15).inherited);
}

TEST_F(ProvenanceTest, AnEntryOfRatioFourReadsTheGroupBeforeItToo) {
  for (const char* tap : {"layers.2.attn.compressor.kv_proj", "layers.2.attn.compressor.score"}) {
    ours(tap, 0, 3);
    present(tap, 4, 15);
    ours(tap, 16, 16);
  }
  const std::string pooled = "layers.2.attn.compressor.pooled";
  EXPECT_FALSE(p_.derive(pooled, 0).single);
  EXPECT_FALSE(p_.derive(pooled, 1).single);  // positions 0 … 7
  EXPECT_TRUE(p_.derive(pooled, 2).single);   // positions 4 … 11
  EXPECT_TRUE(p_.derive(pooled, 3).single);
  EXPECT_FALSE(p_.derive(pooled, 4).single);
}

TEST_F(ProvenanceTest, AnEntryOfAnotherRatioReadsItsOwnGroup) {
  for (const char* tap : {"layers.1.attn.compressor.kv_proj", "layers.1.attn.compressor.score"}) {
    ours(tap, 0, 7);
    present(tap, 8, 15);
  }
  EXPECT_FALSE(p_.derive("layers.1.attn.compressor.pooled", 0).single);
  EXPECT_TRUE(p_.derive("layers.1.attn.compressor.pooled", 1).single);
}

TEST_F(ProvenanceTest, LayersThatDoNotCompressHaveNoEntriesAndHashLayersReadNoScores) {
  present("layers.0.attn.q", 0, 0);
  present("layers.0.attn.kv", 0, 0);
  EXPECT_TRUE(p_.derive("layers.0.attn.o", 0).single);
  EXPECT_EQ(span("layers.0.ffn.gate.indices", 0), Names{"input_ids"});
  EXPECT_TRUE(p_.derive("layers.0.ffn.gate.indices", 0).single);
  EXPECT_FALSE(p_.derive("layers.1.ffn.gate.indices", 0).single);
}

TEST_F(ProvenanceTest, RoutedReadsItsExpertsOrWhatTheyRead) {
  present("layers.1.ffn_norm.out", 0, 1);
  present("layers.1.ffn.gate.weights", 0, 1);
  present("layers.1.ffn.gate.indices", 0, 1);
  const Names before{"layers.1.ffn_norm.out", "layers.1.ffn.gate.weights",
                     "layers.1.ffn.gate.indices"};
  EXPECT_EQ(span("layers.1.ffn.routed", 0), before);
  EXPECT_FALSE(p_.derive("layers.1.ffn.routed", 0).single);
  p_.mark_experts("layers.1.", 1, true);
  EXPECT_EQ(span("layers.1.ffn.routed", 1), Names{"layers.1.ffn.experts.*.out"});
  EXPECT_TRUE(p_.derive("layers.1.ffn.routed", 1).single);
}

TEST_F(ProvenanceTest, TheStreamsOfABlockComeFromTheOneBefore) {
  present("layers.2.hc_ffn.out", 0, 0);
  EXPECT_EQ(span("hc_head.pre", 0), Names{"layers.2.hc_ffn.out"});
  EXPECT_EQ(span("mtp.0.hnorm.out", 0), Names{"layers.2.hc_ffn.out"});
  present("embed", 0, 0);
  EXPECT_EQ(span("layers.0.hc_attn.mixes", 0), Names{"embed"});
  EXPECT_EQ(span("mtp.0.enorm.out", 0), Names{"input_ids"});
  present("mtp.0.x", 0, 0);
  EXPECT_EQ(span("mtp.0.hc_attn.mixes", 0), Names{"mtp.0.x"});
}

TEST_F(ProvenanceTest, SpansAreMergedAsSets) {
  present("layers.0.hc_ffn.out", 0, 0);
  present("layers.1.hc_ffn.out", 0, 0);
  const int a = p_.derive("layers.1.hc_attn.mixes", 0).span;
  const int b = p_.derive("layers.2.hc_attn.mixes", 0).span;
  EXPECT_EQ(p_.merge(a, a), a);
  EXPECT_EQ(p_.merge(a, b), p_.merge(b, a));
  EXPECT_EQ(p_.span_names(p_.merge(a, b)).size(), 2u);
  EXPECT_EQ(p_.merge(p_.merge(a, b), a), p_.merge(a, b));
}

}  // namespace
}  // namespace dsv4::conformance
