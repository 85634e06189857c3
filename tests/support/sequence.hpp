// SPDX-License-Identifier: Apache-2.0
// One sequence through a model in some split, and everything that must not depend on the split:
// logits, discrete decisions with their margins, caches.
#pragma once

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "support/matrices.hpp"
#include "support/random_model.hpp"
#include "support/recorder.hpp"

namespace dsv4::testing {

using Ids = std::vector<std::int32_t>;

struct Decision {
  std::set<int> chosen;
  Real margin = 0;  // to the nearest alternative
};

struct Sequence {
  explicit Sequence(const reference::KvCache& empty) : cache(empty) {}
  Row logits;                                              // of the last position
  Mat streams;                                             // after the last block, every position
  std::map<std::string, std::vector<Decision>> decisions;  // per tap, one a position
  reference::KvCache cache;
};

// Runs ids[0 … tokens-1] in calls that end at `ends` (the last one is tokens).
inline Sequence run(const LoadedModel& m, const Ids& ids, const std::vector<std::int64_t>& ends,
                    bool record = true) {
  Sequence out(m.model.new_cache());
  std::vector<Mat> parts;
  for (const std::int64_t end : ends) {
    Recorder r;
    r.wanted = [](std::string_view name) {
      return name.ends_with("topk_idxs") || name.ends_with("indices") || name.ends_with(".margin");
    };
    const auto output = m.model.forward(ids, end, out.cache, record ? Tap(r) : Tap(), with_mtp());
    out.logits = output.logits;
    parts.push_back(output.streams);
    for (const auto& [name, tap] : r.records) {
      const bool decides = name.ends_with("topk_idxs") || name.ends_with("gate.indices");
      if (!decides) continue;
      const auto margin = r.records.find(name + ".margin");
      for (std::size_t i = 0; i < tap.rows(); ++i) {
        Decision d;
        for (std::size_t k = 0; k < tap.row_size(); ++k) {
          const auto choice = static_cast<int>(tap.values[i * tap.row_size() + k]);
          if (choice >= 0) d.chosen.insert(choice);
        }
        if (margin != r.records.end()) d.margin = margin->second.values[i];
        out.decisions[name].push_back(d);
      }
    }
  }
  Index rows = 0;
  for (const Mat& part : parts) rows += part.rows();
  Mat& all = out.streams;
  all.resize(rows, parts.front().cols());
  rows = 0;
  for (const Mat& part : parts) {
    all.middleRows(rows, part.rows()) = part;
    rows += part.rows();
  }
  return out;
}

// Rows of an open group that mean something after `length` tokens: with overlap the previous group
// once it is complete, then the first length mod ratio rows of the current one.
inline Mat live_rows(const Mat& state, std::int64_t ratio, std::int64_t length) {
  const bool overlap = ModelConfig::overlaps(ratio);
  const Index before = overlap && length >= ratio ? ratio : 0;
  const Index open = length % ratio;
  Mat out(before + open, state.cols());
  out << state.topRows(before), state.middleRows(overlap ? ratio : 0, open);
  return out;
}

// `relative` 0: bit for bit.
inline void expect_same_caches(const ModelConfig& c, const reference::KvCache& a,
                               const reference::KvCache& b, Real relative) {
  ASSERT_EQ(a.length, b.length);
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    const std::int64_t ratio = c.ratio(static_cast<std::int64_t>(i));
    // MTP blocks have seen the tokens whose next id is known; the tests give one id more.
    const std::int64_t oldest = std::max<std::int64_t>(0, a.length - c.window_size);
    EXPECT_TRUE(close(a.blocks[i].window.read(oldest, a.length),
                      b.blocks[i].window.read(oldest, b.length), relative))
        << "window of block " << i;
    for (const bool indexer : {false, true}) {
      const auto& x = indexer ? a.blocks[i].indexer : a.blocks[i].compressor;
      const auto& y = indexer ? b.blocks[i].indexer : b.blocks[i].compressor;
      ASSERT_EQ(x.size(), y.size());
      if (x.empty()) continue;
      const std::string where =
          std::string(indexer ? "indexer" : "compressor") + " of block " + std::to_string(i);
      EXPECT_TRUE(close(x.front().entries.view(), y.front().entries.view(), relative)) << where;
      EXPECT_TRUE(close(live_rows(x.front().state.kv, ratio, a.length),
                        live_rows(y.front().state.kv, ratio, b.length), relative))
          << where;
      EXPECT_TRUE(close(live_rows(x.front().state.score, ratio, a.length),
                        live_rows(y.front().state.score, ratio, b.length), relative))
          << where;
    }
  }
}

// Sets are equal, or the choice was a tie: a margin within 1e-12. False: a tie was broken
// differently, and what follows cannot be compared.
inline bool expect_same_decisions(const Sequence& a, const Sequence& b) {
  bool same = true;
  EXPECT_EQ(a.decisions.size(), b.decisions.size());
  for (const auto& [name, rows] : a.decisions) {
    const auto& others = b.decisions.at(name);
    EXPECT_EQ(rows.size(), others.size()) << name;
    for (std::size_t i = 0; i < std::min(rows.size(), others.size()); ++i) {
      if (rows[i].chosen == others[i].chosen) continue;
      same = false;
      EXPECT_LE(rows[i].margin, 1e-12) << name << " row " << i << ": another choice without a tie";
    }
  }
  return same;
}

inline void expect_same_sequence(const ModelConfig& c, const Sequence& a, const Sequence& b,
                                 Real relative) {
  if (!expect_same_decisions(a, b)) return;
  EXPECT_TRUE(close(a.logits, b.logits, relative)) << "logits";
  EXPECT_TRUE(close(a.streams, b.streams, relative)) << "streams";
  expect_same_caches(c, a.cache, b.cache, relative);
}

}  // namespace dsv4::testing
