// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/suspects.hpp"

#include <algorithm>
#include <tuple>

#include "core/taps.hpp"

namespace dsv4::bugs {
namespace {

std::string leaf(std::string_view tap) {
  for (const std::string_view scope : {"layers.L.", "mtp.J."})
    if (tap.starts_with(scope)) return std::string(tap.substr(scope.size()));
  return std::string(tap);
}

std::string sublayer(std::string name) {
  for (const std::string_view scope : {"hc_ffn.", "ffn_norm."}) {
    if (name.starts_with(scope))
      name.replace(0, scope.size(), scope == "hc_ffn." ? "hc_attn." : "attn_norm.");
  }
  return name;
}

int tier(const Bug& bug, const conformance::Result& at, const TapInfo& info,
         const conformance::TraceTable& table) {
  if (same_stage(info.name, bug.tap)) return 0;
  const auto known = std::find_if(taps().begin(), taps().end(),
                                  [&](const TapInfo& t) { return t.name == bug.tap; });
  if (known == taps().end()) return 1;
  std::string shown = bug.tap;
  if (const auto l = shown.find(".L."); l != shown.npos)
    shown.replace(l + 1, 1, std::to_string(std::max(0, at.block)));
  const bool upstream = known->order <= at.order || !at.tap.starts_with("layers.");
  if (!upstream) return 2;
  return table.exposes(shown) ? 1 : 0;
}

}  // namespace

bool same_stage(const std::string& tap, const std::string& other) {
  return sublayer(leaf(tap)) == sublayer(leaf(other));
}

bool same_module(const std::string& tap, const std::string& other) {
  const auto module = [](const std::string& name) {
    return name.substr(0, name.find_last_of('.') + 1);
  };
  return module(sublayer(leaf(tap))) == module(sublayer(leaf(other)));
}

std::vector<std::string> ids_of(Thrown bugs) {
  std::sort(bugs.begin(), bugs.end(), [](std::size_t a, std::size_t b) {
    return std::tuple(catalogue()[a].systematic, a) < std::tuple(catalogue()[b].systematic, b);
  });
  bugs.erase(std::unique(bugs.begin(), bugs.end()), bugs.end());
  std::vector<std::string> out;
  for (const std::size_t b : bugs) out.push_back(catalogue()[b].id);
  return out;
}

std::vector<Tier> tiers_of(const conformance::Result& at, const Thrown& with,
                           const ModelConfig& config, const conformance::TraceTable& table) {
  std::vector<Tier> out(3);
  const auto m = find_tap(at.tap, static_cast<int>(config.n_layers));
  if (!m) return out;
  for (std::size_t i = 0; i < catalogue().size(); ++i) {
    const Bug& bug = catalogue()[i];
    if (!bug.planted() || bug.kind == "equivalent") continue;
    if (std::find(with.begin(), with.end(), i) != with.end()) continue;
    Tier& t = out[static_cast<std::size_t>(tier(bug, at, *m->info, table))];
    (bug.systematic ? t.systematic : t.reported).push_back(i);
  }
  return out;
}

std::optional<std::int64_t> first_layer(const Thrown& added, const History& history,
                                        std::int64_t earliest) {
  std::optional<std::int64_t> first;
  for (const std::size_t bug : added) {
    if (catalogue()[bug].kind == "loader") return earliest;
    const auto it = history.passed.find(bug);
    if (it == history.passed.end()) continue;
    const std::int64_t layer = std::max(earliest, it->second);
    first = std::min(first.value_or(layer), layer);
  }
  return first;
}

std::vector<std::pair<std::size_t, std::size_t>> likely_pairs(const std::vector<double>& before,
                                                              std::span<const Single> singles,
                                                              std::size_t most) {
  using Vector = Eigen::Map<const Eigen::VectorXd>;
  const Vector all(before.data(), std::ssize(before));
  Eigen::MatrixXd moved(std::ssize(before), std::ssize(singles));
  for (Eigen::Index i = 0; i < moved.cols(); ++i) {
    const auto& kept = *singles[static_cast<std::size_t>(i)].kept;
    moved.col(i) = all - Vector(kept.data(), std::ssize(kept));
  }
  const Eigen::MatrixXd gram = moved.transpose() * moved;
  const Eigen::VectorXd along = moved.transpose() * all;
  struct Guess {
    double left;
    std::size_t a, b;
  };
  std::vector<Guess> guesses;
  for (std::size_t a = 0; a < singles.size(); ++a) {
    for (std::size_t b = a + 1; b < singles.size(); ++b) {
      if (catalogue()[singles[a].bug].tap == catalogue()[singles[b].bug].tap) continue;
      const auto i = static_cast<Eigen::Index>(a), j = static_cast<Eigen::Index>(b);
      guesses.push_back(
          {gram(i, i) + gram(j, j) + 2 * gram(i, j) - 2 * along(i) - 2 * along(j), a, b});
    }
  }
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& x, const Guess& y) { return x.left < y.left; });
  if (guesses.size() > most) guesses.resize(most);
  std::vector<std::pair<std::size_t, std::size_t>> out;
  for (const Guess& g : guesses) out.emplace_back(g.a, g.b);
  return out;
}

}  // namespace dsv4::bugs
