// SPDX-License-Identifier: Apache-2.0
// Names of intermediate values: the compiled-in table, lookup, suggestions and globs.
#include "core/taps.hpp"

#include <gtest/gtest.h>
#include <set>

namespace dsv4 {
namespace {

// A full name of a template, for layer 3, MTP block 0, expert 17.
std::string example_of(std::string name) {
  const std::pair<std::string, std::string> letters[] = {{"layers.L.", "layers.3."},
                                                         {"mtp.J.", "mtp.0."},
                                                         {".E.", ".17."},
                                                         {"<tap>", "layers.2.attn.qr"}};
  for (const auto& [letter, number] : letters) {
    if (const auto at = name.find(letter); at != std::string::npos)
      name.replace(at, letter.size(), number);
  }
  return name;
}

TEST(Taps, EveryRowOfTheTableIsFoundUnderAFullName) {
  for (const TapInfo& tap : taps()) {
    const auto match = find_tap(example_of(tap.name), 5);

    ASSERT_TRUE(match) << tap.name;
    EXPECT_EQ(match->info, &tap) << tap.name;
  }
  EXPECT_GT(taps().size(), 140u);
}

TEST(Taps, NamesAreUniqueAndInFileOrder) {
  std::set<std::string> names;
  int order = 0;
  for (const TapInfo& tap : taps()) {
    EXPECT_TRUE(names.insert(tap.name).second) << tap.name;
    if (tap.beside) {
      EXPECT_EQ(tap.order, order);  // that of its tap
    } else {
      EXPECT_GT(tap.order, order);
    }
    order = tap.order;
  }
}

TEST(Taps, AMatchTellsBlockExpertAndMtp) {
  const auto layer = find_tap("layers.3.ffn.experts.17.up", 5);
  const auto mtp = find_tap("mtp.1.attn.qr", 5);
  const auto head = find_tap("logits", 5);

  ASSERT_TRUE(layer && mtp && head);
  EXPECT_EQ(layer->block, 3);
  EXPECT_EQ(layer->index, 3);
  EXPECT_EQ(layer->expert, 17);
  EXPECT_FALSE(layer->mtp);
  EXPECT_EQ(mtp->block, 6);
  EXPECT_EQ(mtp->index, 1);
  EXPECT_TRUE(mtp->mtp);
  EXPECT_EQ(head->block, -1);
}

TEST(Taps, AxesAreListed) {
  const auto match = find_tap("layers.0.hc_attn.comb", 1);

  ASSERT_TRUE(match);
  EXPECT_EQ(match->info->axes, (std::vector<std::string>{"s", "n", "n"}));
  EXPECT_EQ(match->info->dtype, "fp32");
}

TEST(Taps, WhatIsWrittenOnlyWhenAskedForIsOptional) {
  for (const char* name : {"layers.0.attn.lse", "layers.0.attn.compressor.kv_state", "logits_all",
                           "logprobs", "layers.0.ffn.experts.0.rows", "layers.0.ffn.experts.0.out",
                           "mtp.0.ffn.experts.3.gate", "layers.0.attn.indexer.topk_idxs.margin",
                           "layers.0.attn.kv.code", "layers.0.attn.kv.scale"}) {
    const auto match = find_tap(name, 1);

    ASSERT_TRUE(match) << name;
    EXPECT_TRUE(match->info->optional) << name;
  }
  for (const char* name :
       {"layers.0.attn.kv", "logits", "layers.0.ffn.gate.indices", "mtp.0.logits"}) {
    EXPECT_FALSE(find_tap(name, 1)->info->optional) << name;
  }
}

TEST(Taps, UnknownNamesAreNotFound) {
  for (const char* name : {"",
                           ".",
                           "layers",
                           "layers.",
                           "layers.0",
                           "layers.5.attn.qr",
                           "layers.03.attn.qr",
                           "layers.-1.attn.qr",
                           "layers.+1.attn.qr",
                           "layers.99999999999.attn.qr",
                           "layers.0.attn.qr.",
                           "layers.0.attn.qrs",
                           "layers.L.attn.qr",
                           "mtp.J.x",
                           "mtp.00.x",
                           "layers.0.ffn.experts.E.up",
                           "layers.0.ffn.experts.01.up",
                           "<tap>.margin",
                           "margin",
                           "layers.0.attn.kv.code.code",
                           "layers.0.attn.kv.scale.margin.margin",
                           "layers.0.attn.kv.colour",
                           "attn.qr",
                           "embed.0"}) {
    EXPECT_FALSE(find_tap(name, 5)) << name;
  }
}

TEST(Taps, ASuggestionKeepsTheNumbersOfTheUnknownName) {
  EXPECT_EQ(nearest_tap("layers.7.attn.qrr"), "layers.7.attn.qr");
  EXPECT_EQ(nearest_tap("layers.2.ffn.experts.12.upp"), "layers.2.ffn.experts.12.up");
  EXPECT_EQ(nearest_tap("mtp.0.attn.derotated"), "mtp.0.attn.o_derotated");
  EXPECT_EQ(nearest_tap("logit"), "logits");
  EXPECT_EQ(nearest_tap("completely different"), "");
}

TEST(Taps, AGlobStarCrossesDots) {
  EXPECT_TRUE(glob_match("layers.2.*", "layers.2.attn.indexer.q"));
  EXPECT_TRUE(glob_match("*.comb", "layers.2.hc_attn.comb"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("l*r*.?.*q", "layers.2.attn.indexer.q"));
  EXPECT_TRUE(glob_match("a**b", "ab"));
  EXPECT_FALSE(glob_match("layers.?.attn", "layers.12.attn"));
  EXPECT_FALSE(glob_match("layers.2", "layers.2.attn"));
  EXPECT_FALSE(glob_match("", "a"));
  EXPECT_TRUE(glob_match("", ""));
}

TEST(Taps, AGlobOfManyStarsIsNotSlow) {
  std::string pattern, text(5000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "*a";

  EXPECT_FALSE(glob_match(pattern + "b", text));
}

}  // namespace
}  // namespace dsv4
