// SPDX-License-Identifier: Apache-2.0
// What recorded values show. A tap that no trace has leaves its conditions unknown.
#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <numeric>

#include "conformance/coverage_rules.hpp"
#include "core/error.hpp"

namespace dsv4::conformance {
namespace {

// One row of a recorded tap.
struct RowView {
  const TraceView* trace = nullptr;
  const Slot* slot = nullptr;
  std::int64_t block = -1, position = 0;
  std::span<const double> values;
};

// Visits the rows of every tap whose name ends so, until `visit` returns true; says whether there
// was a row.
template <class Visit>
bool for_each_row(const Evidence& e, std::string_view leaf, Visit visit) {
  bool any = false;
  for (const TraceView& trace : e.traces) {
    for (const Slot& slot : trace.slots) {
      if (!slot.info->name.ends_with(leaf) || slot.keys.empty() || !slot.problem.empty()) continue;
      const auto m = find_tap(slot.info->name, static_cast<int>(trace.config.n_layers));
      const std::vector<double> values = trace.file->read(slot.call, *slot.info);
      const std::size_t width = values.size() / slot.keys.size();
      for (std::size_t r = 0; m && r < slot.keys.size(); ++r) {
        any = true;
        if (visit(RowView{&trace, &slot, m->block, slot.keys[r],
                          std::span(values).subspan(r * width, width)}))
          return true;
      }
    }
  }
  return any;
}

std::string place(const RowView& row) {
  return fmt::format("{}: {} at position {}", row.trace->file->path().filename().string(),
                     row.slot->info->name, row.position);
}

// The first row that satisfies `wanted`.
template <class Wanted>
Finding first_row(const Evidence& e, std::string_view leaf, Wanted wanted) {
  Finding finding = found(false, "no such row");
  const bool any = for_each_row(e, leaf, [&](const RowView& row) {
    if (!wanted(row)) return false;
    finding = found(true, place(row));
    return true;
  });
  return any ? finding : Finding{Reached::unknown, fmt::format("needs the tap …{}", leaf)};
}

// Do two candidates on either side of the cut after the k best have equal scores?
bool tie_at_cut(std::span<const double> scores, std::int64_t k) {
  std::vector<double> sorted;
  std::ranges::copy_if(scores, std::back_inserter(sorted),
                       [](double v) { return v > -std::numeric_limits<double>::infinity(); });
  if (k < 1 || std::ssize(sorted) <= k) return false;
  std::ranges::sort(sorted, std::greater<>{});
  return sorted[static_cast<std::size_t>(k) - 1] == sorted[static_cast<std::size_t>(k)];
}

std::vector<std::size_t> best(std::span<const double> scores, std::int64_t k) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](auto a, auto b) { return scores[a] > scores[b]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(std::max<std::int64_t>(k, 0))));
  std::ranges::sort(order);
  return order;
}

Finding bias_flips(const Evidence& e) {
  if (!e.model) return {Reached::unknown, "needs the checkpoint"};
  return first_row(e, "ffn.gate.scores", [&](const RowView& row) {
    const std::string name = row.slot->info->name;
    const std::string bias_name = name.substr(0, name.rfind('.')) + ".bias";
    if (!e.model->has(bias_name)) return false;
    const Row bias = e.model->vector(bias_name);
    if (static_cast<std::size_t>(bias.size()) != row.values.size()) return false;
    std::vector<double> biased(row.values.begin(), row.values.end());
    for (std::size_t i = 0; i < biased.size(); ++i)
      biased[i] += static_cast<double>(bias[static_cast<Index>(i)]);
    const std::int64_t k = row.trace->config.n_activated_experts;
    return best(row.values, k) != best(biased, k);
  });
}

// Largest and smallest value of a tap over everything recorded.
struct Extremes {
  bool any = false;
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();
};

Extremes extremes(const Evidence& e, std::string_view leaf) {
  Extremes x;
  x.any = for_each_row(e, leaf, [&](const RowView& row) {
    for (const double v : row.values) {
      x.least = std::min(x.least, v);
      x.most = std::max(x.most, v);
    }
    return false;
  });
  return x;
}

// Recorded gate and up are clamped already: a value at the limit was at or beyond it.
Finding clamps(const Evidence& e) {
  const double limit = e.config->swiglu_limit;
  if (limit <= 0) return found(false, "the config has no clamp");
  const Extremes gate = extremes(e, ".gate"), up = extremes(e, ".up");
  if (!gate.any || !up.any)
    return {Reached::unknown, "needs the optional taps ffn.experts.E.gate and .up"};
  return found(gate.most >= limit && up.most >= limit && up.least <= -limit,
               fmt::format("limit {}: gate up to {:.3g}, up {:.3g} … {:.3g}", limit, gate.most,
                           up.least, up.most));
}

Finding gate_unbounded_below(const Evidence& e) {
  const double limit = e.config->swiglu_limit;
  const Extremes gate = extremes(e, ".gate");
  if (!gate.any) return {Reached::unknown, "needs the optional tap ffn.experts.E.gate"};
  return found(limit > 0 && gate.least < -limit,
               fmt::format("gate down to {:.3g}, limit {}", gate.least, limit));
}

Finding router_extremes(const Evidence& e) {
  const Extremes x = extremes(e, "ffn.gate.logits");
  if (!x.any) return {Reached::unknown, "needs the tap …ffn.gate.logits"};
  return found(
      x.least < -16.64 && x.most > 20,
      fmt::format("logits {:.3g} … {:.3g}, expected below -16.64 and above 20", x.least, x.most));
}

bool asymmetric(const RowView& row) {
  const auto n = static_cast<std::size_t>(row.trace->config.hc_mult);
  for (std::size_t j = 0; row.values.size() == n * n && j < n; ++j) {
    for (std::size_t k = 0; k < j; ++k) {
      if (std::abs(row.values[j * n + k] - row.values[k * n + j]) > 0.01) return true;
    }
  }
  return false;
}

// Sinkhorn has not converged: a change of its order or count then shows.
bool unconverged(const RowView& row) {
  const auto n = static_cast<std::size_t>(row.trace->config.hc_mult);
  for (std::size_t j = 0; row.values.size() == n * n && j < n; ++j) {
    const auto of_row = row.values.subspan(j * n, n);
    if (std::abs(std::accumulate(of_row.begin(), of_row.end(), 0.0) - 1) > 1e-4) return true;
  }
  return false;
}

bool has_negative(const RowView& row) {
  return std::ranges::any_of(row.values, [](double v) { return v < 0; });
}

}  // namespace

std::vector<Rule> value_rules() {
  using E = const Evidence&;
  return {
      {"topk-tie", "index scores on both sides of the cut are equal",
       [](E e) {
         return first_row(e, "indexer.index_score", [](const RowView& r) {
           return tie_at_cut(r.values, r.trace->config.index_topk);
         });
       }},
      {"index-weights", "index head weights are negative",
       [](E e) { return first_row(e, "indexer.weights", has_negative); }},
      {"bias-flips", "the gate's bias changes which experts are chosen", bias_flips},
      {"router-extremes", "router logits beyond both ends of a plain softplus", router_extremes},
      {"clamps", "gate and up values reach the clamp, up on both sides", clamps},
      {"gate-below", "a gate value lies below minus the limit, where it has no clamp",
       gate_unbounded_below},
      {"comb-asymmetric", "a mixing matrix of the hyper-connections is not symmetric",
       [](E e) { return first_row(e, ".comb", asymmetric); }},
      {"comb-unconverged", "a mixing matrix whose rows do not sum to one",
       [](E e) { return first_row(e, ".comb", unconverged); }},
  };
}

}  // namespace dsv4::conformance
