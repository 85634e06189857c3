// SPDX-License-Identifier: Apache-2.0
// The column `inputs` of core/taps.tsv is true: a change of one tap's value changes the taps that
// are reachable from it through that column, in the rows that its relations name, and no others.
#include <algorithm>
#include <cmath>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "core/taps.hpp"
#include "support/random_model.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::LoadedModel;
using testing::random_ids;
using testing::Record;
using testing::Recorder;
using testing::small_config;

constexpr std::int64_t kTokens = 33;

// Window with hash routing, HCA, CSA, and MTP; every compressor closes several groups.
ModelConfig graph_config() {
  ModelConfig c = small_config();
  c.n_layers = 3;
  c.compress_ratios = {0, 8, 4, 0};
  c.dim = 32;
  c.n_routed_experts = 5;
  return c;
}

enum class Relation { same, window, visible, group, open, visited };

struct Edge {
  std::string from;
  std::string to;
  Relation relation;
};

class Graph {
 public:
  Graph(const ModelConfig& config, const std::map<std::string, Record, std::less<>>& records)
      : config_(config) {
    for (const auto& [name, _] : records) add_inputs(name, records);
  }

  // Rows of every tap that a change of some rows of `from` may reach.
  std::map<std::string, std::set<std::int64_t>> reachable(
      const std::string& from, const std::set<std::int64_t>& rows) const {
    std::map<std::string, std::set<std::int64_t>> seen;
    seen[from] = rows;
    std::vector<std::string> open = {from};
    while (!open.empty()) {
      const std::string name = open.back();
      open.pop_back();
      const auto [first, last] = edges_.equal_range(name);
      for (auto e = first; e != last; ++e) {
        std::set<std::int64_t>& to = seen[e->second.to];
        const auto before = to.size();
        for (const std::int64_t row : seen[name]) spread(e->second, row, to);
        if (to.size() > before) open.push_back(e->second.to);
      }
    }
    std::erase_if(seen, [](const auto& entry) { return entry.second.empty(); });
    return seen;
  }

  std::set<std::string> readers(const std::string& from) const {
    std::set<std::string> names;
    const auto [first, last] = edges_.equal_range(from);
    for (auto e = first; e != last; ++e) names.insert(e->second.to);
    return names;
  }

 private:
  void add_inputs(const std::string& name,
                  const std::map<std::string, Record, std::less<>>& records) {
    const auto match = find_tap(name, static_cast<int>(config_.n_layers));
    if (!match) return;
    const std::string prefix = match->block < 0 ? ""
                               : match->mtp     ? "mtp." + std::to_string(match->index) + "."
                                                : "layers." + std::to_string(match->index) + ".";
    std::istringstream words(match->info->inputs);
    for (std::string word; words >> word;) {
      const auto at = word.find('@');
      static const std::map<std::string, Relation> relations = {
          {"", Relation::same},       {"window", Relation::window}, {"visible", Relation::visible},
          {"group", Relation::group}, {"open", Relation::open},     {"visited", Relation::visited}};
      const Relation relation = relations.at(at == word.npos ? "" : word.substr(at + 1));
      std::string stem = word.substr(0, at);
      if (stem == "ids" || stem == "-") continue;
      const std::string last = "layers." + std::to_string(config_.n_layers - 1) + ".hc_ffn.out";
      if (stem == "X") {
        stem = match->mtp          ? prefix + "x"
               : match->block < 0  ? last
               : match->block == 0 ? "embed"
                                   : "layers." + std::to_string(match->block - 1) + ".hc_ffn.out";
      } else if (stem == "/X") {
        stem = last;
      } else {
        stem = prefix + stem;
      }
      // A hash layer's choice comes from the token ids.
      if (stem.ends_with("gate.scores") && name.ends_with("gate.indices") && match->block >= 0 &&
          config_.hash_routed(match->block))
        continue;
      const auto letter = stem.find(".E.");
      for (std::int64_t e = 0; e < config_.n_routed_experts; ++e) {
        if (match->expert >= 0 && e != match->expert) continue;
        std::string from = stem;
        if (letter != stem.npos) from.replace(letter, 3, "." + std::to_string(e) + ".");
        if (records.contains(from)) edges_.emplace(from, Edge{from, name, relation});
        if (letter == stem.npos) break;
      }
    }
  }

  void spread(const Edge& edge, std::int64_t row, std::set<std::int64_t>& to) const {
    const auto match = find_tap(edge.to, static_cast<int>(config_.n_layers));
    const std::int64_t ratio =
        match->block < 0 ? 1 : std::max<std::int64_t>(1, config_.ratio(match->block));
    switch (edge.relation) {
      case Relation::same:
      case Relation::visited:
        if (edge.to.ends_with("logits") && match->info->axes.front() == "v") {
          if (row == kTokens - 1) to.insert(0);
        } else {
          to.insert(row);
        }
        break;
      case Relation::window:
        for (std::int64_t t = row; t < std::min(kTokens, row + config_.window_size); ++t)
          to.insert(t);
        break;
      case Relation::visible:
        for (std::int64_t t = (row + 1) * ratio - 1; t < kTokens; ++t) to.insert(t);
        break;
      case Relation::group:
        for (const std::int64_t e : {row / ratio, row / ratio + 1}) {
          if (e < kTokens / ratio && (e == row / ratio || ModelConfig::overlaps(ratio)))
            to.insert(e);
        }
        break;
      case Relation::open:
        for (std::int64_t b = 0; b < 2 * ratio; ++b) to.insert(b);  // which slot does not matter
        break;
    }
  }

  const ModelConfig& config_;
  std::multimap<std::string, Edge> edges_;
};

class TapGraph : public ::testing::Test {
 protected:
  TapGraph() : model(graph_config(), 11), ids(random_ids(model.config(), kTokens + 1, 4)) {
    base = run({});
  }

  using Change = std::function<void(std::string_view, std::span<Real>)>;
  Recorder run(const Change& change, const std::string& changed_tap = {},
               const Recorder* pinned_to = nullptr) const {
    Recorder r;
    r.pinned_to = pinned_to;
    r.free = changed_tap;
    r.change_values = change;
    r.change_indices = [&](std::string_view name, std::span<std::int32_t> v, const IndexEvent& e) {
      if (name != changed_tap) return;
      if (e.scores == nullptr && !name.ends_with("gate.indices")) {  // no choice: rows, positions
        std::ranges::fill(v, 0);
        return;
      }
      // Another legal choice: the next expert, or the next candidate in sight.
      const auto width = static_cast<std::size_t>(e.shape[1]);
      for (std::size_t i = 0; i < v.size(); ++i) {
        const auto position = static_cast<std::int32_t>(i / width);
        const bool gate = name.ends_with("gate.indices");
        const auto most =
            gate ? static_cast<std::int32_t>(model.config().n_routed_experts) : (position + 1) / 4;
        if (v[i] >= 0) v[i] = (v[i] + 1) % most;
      }
    };
    KvCache cache = model.model.new_cache();
    model.model.forward(ids, kTokens, cache, Tap(r), testing::with_mtp());
    return r;
  }

  // Changes every row of a tap, or one (row >= 0).
  Recorder changed(const std::string& name, std::int64_t row,
                   const Recorder* pinned_to = nullptr) const {
    const Record& record = base.at(name);
    const std::size_t width = record.row_size();
    const Rng rng(1, name);
    return run(
        [&, width](std::string_view tap, std::span<Real> v) {
          if (tap != name) return;
          for (std::size_t i = 0; i < v.size(); ++i) {
            if (row >= 0 && i / width != static_cast<std::size_t>(row)) continue;
            v[i] *= 0.2 + 0.7 * rng.uniform(i);
          }
        },
        name, pinned_to);
  }

  static bool same_values(const Record& a, const Record& b) {
    return std::ranges::equal(a.values, b.values, [](Real x, Real y) {
      return x == y || (std::isnan(x) && std::isnan(y));
    });
  }

  static bool judged(const std::string& name) {
    // Margins follow their tap; the MTP head's extra taps are not in the table.
    return !name.ends_with(".margin") && !name.ends_with("mtp.0.logits_all") &&
           !name.ends_with("mtp.0.logprobs");
  }

  // Rows of `name` that differ; experts' rows are joined by token and named by it.
  std::set<std::int64_t> differing(const Recorder& other, const std::string& name,
                                   bool& comparable) const {
    const Record& a = base.at(name);
    std::set<std::int64_t> rows;
    comparable = other.records.contains(name);
    if (!comparable) return rows;
    const Record& b = other.at(name);
    const auto key = [&](const Recorder& r, std::size_t i) {
      const auto at = name.find(".experts.");
      if (at == name.npos) return static_cast<std::int64_t>(i);
      const std::string expert = name.substr(0, name.find('.', at + 9));
      return static_cast<std::int64_t>(r.at(expert + ".rows").values[i]);
    };
    const bool is_rows = name.ends_with(".rows");
    if (is_rows) {
      if (a.values != b.values) rows.insert(-1);
      return rows;
    }
    comparable = false;
    Real largest = 0;
    for (const Real v : a.values)
      if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
    for (std::size_t i = 0, j = 0; i < a.rows() && j < b.rows();) {
      if (key(base, i) != key(other, j)) {
        ++(key(base, i) < key(other, j) ? i : j);
        continue;
      }
      comparable = true;
      for (std::size_t k = 0; k < a.row_size(); ++k) {
        const Real x = a.values[i * a.row_size() + k];
        const Real y = b.values[j * a.row_size() + k];
        const bool same =
            x == y || std::abs(x - y) <= 1e-10 * largest || (std::isnan(x) && std::isnan(y));
        if (!same) rows.insert(key(base, i));
      }
      ++i;
      ++j;
    }
    return rows;
  }

  LoadedModel model;
  std::vector<std::int32_t> ids;
  Recorder base;
};

TEST_F(TapGraph, DirectReadersOfATapAreExactlyThoseOfTheInputsColumn) {
  // Every other tap hands on its old value: only the stages that read this tap compute another one.
  const Graph graph(model.config(), base.records);

  for (const auto& [name, _] : base.records) {
    if (!judged(name)) continue;
    const std::set<std::string> readers = graph.readers(name);

    const Recorder other = changed(name, -1, &base);

    for (const auto& [tap, record] : base.records) {
      if (!judged(tap) || tap == name) continue;
      // Which rows an expert gets, and so what is summed, follows the choice of experts.
      const bool follows = name.ends_with("gate.indices") &&
                           (tap.find(".experts.") != tap.npos || tap.ends_with("ffn.routed"));
      if (follows && !tap.ends_with(".rows")) continue;
      // An expert that nobody visits any more reports nothing.
      const bool differs = !other.records.contains(tap) || !same_values(record, other.at(tap));
      EXPECT_EQ(differs, readers.contains(tap)) << "does " << tap << " read " << name << "?";
    }
  }
}

TEST_F(TapGraph, AChangeReachesNothingOutsideTheInputsColumn) {
  const Graph graph(model.config(), base.records);

  for (const auto& [name, record] : base.records) {
    if (!judged(name) || name.ends_with(".rows")) continue;
    std::set<std::int64_t> all;
    for (std::int64_t i = 0; i < kTokens; ++i) all.insert(i);
    const auto reachable = graph.reachable(name, all);

    const Recorder other = changed(name, -1);

    for (const auto& [tap, _] : base.records) {
      if (!judged(tap) || tap == name || reachable.contains(tap)) continue;
      bool comparable = false;
      EXPECT_TRUE(differing(other, tap, comparable).empty())
          << "a change of " << name << ", seen in " << tap;
    }
  }
}

TEST_F(TapGraph, AChangeOfOneRowStaysInTheRowsThatTheRelationsName) {
  const Graph graph(model.config(), base.records);

  for (const auto& [name, record] : base.records) {
    if (!judged(name) || record.integer || record.rows() < 2) continue;
    if (name.find(".experts.") != name.npos || name.ends_with("_state")) continue;
    const auto row = static_cast<std::int64_t>(record.rows()) / 2;
    const auto reachable = graph.reachable(name, {row});

    const Recorder other = changed(name, row);

    for (const auto& [tap, _] : base.records) {
      if (!judged(tap) || tap == name || tap.ends_with(".rows") || tap.ends_with("_state"))
        continue;
      bool comparable = false;
      const auto found = reachable.find(tap);
      for (const std::int64_t r : differing(other, tap, comparable)) {
        EXPECT_TRUE(found != reachable.end() && found->second.contains(r))
            << "a change of row " << row << " of " << name << ", seen in row " << r << " of "
            << tap;
      }
    }
  }
}

TEST_F(TapGraph, NothingReadsTheWindowIndicesOrTheExpertsRows) {
  for (const std::string name : {"layers.1.attn.window_idxs", "layers.1.ffn.experts.0.rows"}) {
    Recorder r;
    r.change_indices = [&](std::string_view tap, std::span<std::int32_t> v, const IndexEvent&) {
      if (tap == name) std::ranges::fill(v, 0);
    };
    KvCache cache = model.model.new_cache();

    model.model.forward(ids, kTokens, cache, Tap(r), testing::with_mtp());

    EXPECT_EQ(r.at("logits").values, base.at("logits").values);
    EXPECT_EQ(r.at("mtp.0.logits").values, base.at("mtp.0.logits").values);
  }
}

}  // namespace
}  // namespace dsv4::reference
