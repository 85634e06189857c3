// SPDX-License-Identifier: Apache-2.0
// What a forward call reports: the names of core/taps.tsv, all of them, once, in shape.
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

#include "core/taps.hpp"
#include "core/trace.hpp"
#include "support/matrices.hpp"
#include "support/random_model.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::identical;
using testing::LoadedModel;
using testing::random_ids;
using testing::Recorder;
using testing::small_config;

// The names that taps.tsv promises for one block. E stands for every expert that was visited.
bool belongs(const std::string& name, std::int64_t ratio) {
  if (name.find(".indexer.") != std::string::npos) return ratio == 4;
  if (name.find(".compressor.") != std::string::npos) return ratio != 0;
  return true;
}

std::string numbered(std::string name, const std::string& letter, const std::string& number) {
  const auto at = name.find("." + letter + ".");
  return at == std::string::npos ? name : name.replace(at + 1, letter.size(), number);
}

// Every template except "<tap>.…" and what stands beside a tap, with numbers for the letters; E
// stays.
std::set<std::string> expected_names(const ModelConfig& c, bool optional) {
  std::set<std::string> names;
  for (const TapInfo& tap : taps()) {
    if (tap.name.starts_with("<tap>") || tap.beside || tap.optional != optional) continue;
    if (tap.name.starts_with("layers.L.")) {
      for (std::int64_t l = 0; l < c.n_layers; ++l)
        if (belongs(tap.name, c.ratio(l))) names.insert(numbered(tap.name, "L", std::to_string(l)));
    } else if (tap.name.starts_with("mtp.J.")) {
      for (std::int64_t j = 0; j < c.n_mtp_layers; ++j)
        if (belongs(tap.name, c.ratio(c.n_layers + j)))
          names.insert(numbered(tap.name, "J", std::to_string(j)));
    } else {
      names.insert(tap.name);
    }
  }
  return names;
}

std::string without_expert(const std::string& name) {
  const auto at = name.find(".experts.");
  if (at == std::string::npos) return name;
  const auto dot = name.find('.', at + 9);
  return name.substr(0, at + 9) + "E" + name.substr(dot);
}

// The MTP head offers these although the table has no such rows.
bool extra(std::string_view name) {
  return name.starts_with("mtp.0.logits_all") || name == "mtp.0.logprobs";
}

Recorder record(const LoadedModel& m, std::int64_t tokens) {
  Recorder r;
  r.wanted = [](std::string_view name) { return !extra(name); };
  KvCache cache = m.model.new_cache();
  const auto ids = random_ids(m.config(), static_cast<std::size_t>(tokens) + 1, 3);
  m.model.forward(ids, tokens, cache, Tap(r), testing::with_mtp());
  return r;
}

TEST(Taps, OfAForwardAreExactlyThoseOfTheTable) {
  const LoadedModel m(small_config(), 1);

  const Recorder r = record(m, 33);  // every compressor completes entries

  std::set<std::string> found;
  for (const auto& [name, _] : r.records) found.insert(without_expert(name));
  std::set<std::string> expected = expected_names(m.config(), false);
  const auto optional = expected_names(m.config(), true);
  expected.insert(optional.begin(), optional.end());
  for (std::int64_t b = 0; b < 5; ++b) {  // margins stand beside what decides
    const std::string block = b < 4 ? "layers." + std::to_string(b) : "mtp.0";
    if (b > 0) expected.insert(block + ".ffn.gate.indices.margin");
    if (b == 2) expected.insert(block + ".attn.indexer.topk_idxs.margin");
  }
  expected.insert("logits_all.margin");
  EXPECT_EQ(found, expected);
}

TEST(Taps, AreReportedOnceACall) {
  const LoadedModel m(small_config(), 1);

  const Recorder r = record(m, 33);

  for (const auto& [name, tap] : r.records) EXPECT_EQ(tap.count, 1) << name;
  EXPECT_EQ(r.calls.size(), 1U);
}

TEST(Taps, HaveTheAxesAndExtentsOfTheTable) {
  const LoadedModel m(small_config(), 1);
  const ModelConfig& c = m.config();

  const Recorder r = record(m, 33);

  const std::map<std::string, std::int64_t> extents = {{"d", c.dim},
                                                       {"n", c.hc_mult},
                                                       {"m", c.mix_size()},
                                                       {"q", c.q_lora_rank},
                                                       {"h", c.n_heads},
                                                       {"c", c.head_dim},
                                                       {"g", c.o_groups},
                                                       {"r", c.o_lora_rank},
                                                       {"i", c.index_n_heads},
                                                       {"j", c.index_head_dim},
                                                       {"x", c.n_routed_experts},
                                                       {"a", c.n_activated_experts},
                                                       {"f", c.moe_inter_dim},
                                                       {"v", c.vocab_size},
                                                       {"k", c.index_topk},
                                                       {"u", c.window_size},
                                                       {"t", 8},
                                                       {"s", 33}};
  for (const auto& [name, tap] : r.records) {
    const auto known = find_tap(name, static_cast<int>(c.n_layers));
    ASSERT_TRUE(known) << name;
    const std::vector<std::string>& axes = known->info->axes;
    std::string joined;
    for (const std::string& a : axes) joined += (joined.empty() ? "" : ",") + a;
    if (joined.empty()) continue;  // beside another tap: its axes
    EXPECT_EQ(tap.axes, joined) << name;
    ASSERT_EQ(tap.shape.size(), axes.size()) << name;
    std::int64_t product = 1;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      product *= tap.shape[i];
      if (const auto e = extents.find(axes[i]); e != extents.end()) {
        EXPECT_EQ(tap.shape[i], e->second) << name << " axis " << axes[i];
      }
      if (axes[i] == "e" || axes[i] == "w" || axes[i] == "b") {
        const std::int64_t ratio = c.ratio(known->block);
        const bool index = name.find(".indexer.") != std::string::npos;
        const std::int64_t width = index ? c.index_head_dim : c.head_dim;
        const std::int64_t twice = ratio == 4 ? 2 : 1;
        const std::int64_t want = axes[i] == "e"   ? 33 / ratio
                                  : axes[i] == "w" ? twice * width
                                                   : twice * ratio;
        EXPECT_EQ(tap.shape[i], want) << name << " axis " << axes[i];
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(tap.values.size()), product) << name;
    EXPECT_EQ(tap.integer, known->info->dtype == "int") << name;
  }
}

TEST(Taps, OfACallThatCompletesNoEntryOmitTheEntries) {
  const LoadedModel m(small_config(), 1);

  const Recorder r = record(m, 3);

  EXPECT_FALSE(r.records.contains("layers.2.attn.compressor.pooled"));
  EXPECT_FALSE(r.records.contains("layers.2.attn.compressor.entry"));
  EXPECT_FALSE(r.records.contains("layers.2.attn.indexer.index_score"));
  EXPECT_TRUE(r.records.contains("layers.2.attn.compressor.kv_proj"));
  EXPECT_EQ(r.at("layers.2.attn.indexer.topk_idxs").shape, (std::vector<std::int64_t>{3, 0}));
}

TEST(Taps, AreInTheOrderOfTheForwardPass) {
  const LoadedModel m(small_config(), 1);

  const Recorder r = record(m, 33);

  std::map<int, int> last;  // per block: the table's order of the last tap seen
  for (const std::string& name : r.order) {
    const auto known = find_tap(name, 4);
    ASSERT_TRUE(known) << name;
    if (name.find(".experts.") != std::string::npos || name.ends_with(".margin") ||
        name.find("compressor") != std::string::npos ||
        name.find("window_idxs") != std::string::npos || name.starts_with("log"))
      continue;  // beside the main line
    EXPECT_GT(known->info->order, last[known->block]) << name;
    last[known->block] = known->info->order;
  }
}

TEST(Taps, ChangeNoBit) {
  const LoadedModel m(small_config(), 6);
  const auto ids = random_ids(m.config(), 41, 6);
  KvCache watched = m.model.new_cache(), alone = m.model.new_cache();
  Recorder r;
  r.keep_errors = true;

  for (const std::int64_t end : {25, 26, 40}) {
    const ForwardOptions options = testing::with_mtp();
    const Output a = m.model.forward(ids, end, watched, Tap(r), options);
    const Output b = m.model.forward(ids, end, alone, {}, options);

    EXPECT_TRUE(identical(a.logits, b.logits));
    EXPECT_TRUE(identical(a.streams, b.streams));
  }
}

TEST(Taps, WithAnErrorBoundCoverEveryValue) {
  const LoadedModel m(small_config(), 1);
  Recorder r;
  r.keep_errors = true;
  KvCache cache = m.model.new_cache();
  const auto ids = random_ids(m.config(), 34, 3);

  m.model.forward(ids, 33, cache, Tap(r), testing::with_mtp());

  for (const auto& [name, tap] : r.records) {
    if (tap.exact) continue;
    ASSERT_EQ(tap.error.size(), tap.values.size()) << name;
    for (std::size_t i = 0; i < tap.error.size(); ++i)
      ASSERT_TRUE(tap.error[i] >= 0 && std::isfinite(tap.error[i])) << name << " " << i;
  }
}

TEST(Tap, RefusesAnUnboundAxis) {
  Recorder r;
  const Tap tap(r);

  EXPECT_THROW(tap("x[s]", Mat::Zero(1, 1)), std::logic_error);
}

TEST(Tap, RefusesAShapeThatTheAxesContradict) {
  Recorder r;
  Tap tap(r);
  tap.bind("s", 2).bind("d", 3);

  EXPECT_THROW(tap("x[s,d]", Mat::Zero(2, 4)), std::logic_error);
  EXPECT_NO_THROW(tap("x[s,d]", Mat::Zero(2, 3)));
}

TEST(Tap, WithoutASinkIsTheIdentity) {
  const Tap tap;

  EXPECT_EQ(tap("x[nonsense]", Mat{{1, 2}}), (Mat{{1, 2}}));
  EXPECT_FALSE(tap.wants("x"));
}

TEST(Tap, PassesOnWhatTheSinkPutInItsPlace) {
  Recorder r;
  r.change_values = [](std::string_view, std::span<Real> v) { v[0] = 9; };
  Tap tap(r);
  tap.bind("s", 1).bind("d", 2);

  EXPECT_EQ(tap.in("a").in("b", 3)("x[s,d]", Mat{{1, 2}}), (Mat{{9, 2}}));
  EXPECT_TRUE(r.records.contains("a.b.3.x"));
}

}  // namespace
}  // namespace dsv4::reference
