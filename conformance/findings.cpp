// SPDX-License-Identifier: Apache-2.0
#include "conformance/findings.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <set>

namespace dsv4::conformance {
namespace {

std::vector<std::int64_t> coordinates(const Slot& slot, std::int64_t row, std::int64_t column) {
  const auto& shape = slot.info->shape;
  std::vector<std::int64_t> index(shape.size());
  std::int64_t rest = column;
  for (std::size_t a = shape.size(); a-- > 0;) {
    if (a == 0) {
      index[0] = slot.keys.size() == 1 && shape.size() == 1 && slot.width > 1 ? rest : row;
    } else {
      index[a] = shape[a] > 0 ? rest % shape[a] : rest;
      rest = shape[a] > 0 ? rest / shape[a] : 0;
    }
  }
  return index;
}

class Conclusion {
 public:
  Conclusion(TraceTable& table, const ModelConfig& config, Comparer& judge,
             const VerifyOptions& options)
      : table_(table), config_(config), judge_(judge), options_(options) {}

  std::vector<Result> results() {
    for (Slot& slot : table_.slots()) {
      if (covered(slot)) results_.push_back(judge(slot));
    }
    add_absent();
    std::stable_sort(results_.begin(), results_.end(),
                     [](const Result& a, const Result& b) { return a.call < b.call; });
    return std::move(results_);
  }

 private:
  std::optional<TapMatch> known(const std::string& tap) const {
    return find_tap(tap, static_cast<int>(config_.n_layers));
  }

  bool in_layers(const std::optional<TapMatch>& m) const {
    if (!m) return true;
    const bool whole = options_.first_layer == 0 && options_.last_layer < 0;
    if (whole) return true;
    if (m->mtp || m->block < 0) return options_.last_layer < 0 && m->info->name != "embed";
    return m->block >= options_.first_layer &&
           (options_.last_layer < 0 || m->block <= options_.last_layer);
  }

  // Is this dataset asked about at all?
  bool covered(const Slot& slot) const {
    const Selection& s = options_.selection;
    if (!in_layers(known(slot.info->name))) return false;
    Selection any_row = s;
    any_row.last_row = any_row.first_row - 1;
    if (!any_row.accepts(slot.info->name, slot.call, 0)) return false;
    if (s.last_row < s.first_row || slot.keys.empty()) return true;
    return std::any_of(slot.keys.begin(), slot.keys.end(), [&](std::int64_t key) {
      const std::int64_t p = position(slot, key);
      return p >= s.first_row && p <= s.last_row;
    });
  }

  std::int64_t position(const Slot& slot, std::int64_t key) const {
    const auto m = known(slot.info->name);
    if (!m || m->info->axes.empty()) return key;
    if (m->info->axes[0] == "b") return table_.calls()[slot.call].end - 1;
    return m->info->axes[0] == "e" ? key * config_.ratio(m->block) : key;
  }

  Result blank(const Slot& slot) const {
    Result r;
    r.tap = slot.info->name;
    r.call = static_cast<int>(slot.call);
    if (const auto m = known(r.tap)) {
      r.order = m->info->order;
      r.block = m->block;
    }
    return r;
  }

  static Result fail(Result r, std::string reason) {
    r.verdict = Verdict::failed;
    r.reason = std::move(reason);
    return r;
  }

  Result judge(Slot& slot) {
    Result r = blank(slot);
    if (!known(r.tap)) {
      r.verdict = Verdict::unknown;
      r.reason = fmt::format("no such tap; the nearest is {}", nearest_tap(r.tap));
      return r;
    }
    if (!slot.problem.empty()) {
      r.position = table_.calls()[slot.call].start;
      return fail(r, slot.problem);
    }
    const auto it = judge_.findings().find(&slot);
    if (it == judge_.findings().end()) return nothing_compared(slot, r);
    Finding& f = it->second;
    r.rows = f.rows;
    r.inherited = f.inherited;
    r.replays = f.replays;
    r.margin = f.margin;
    if (f.origin >= 0) r.span = judge_.provenance().span_names(f.origin);
    if (f.illegal || slot.choice) return judge_choice(slot, f, r);
    r.magnitude = magnitude(slot);
    r.elements = f.stage.elements() + f.span.elements();
    r.equal = f.stage.equal() + f.span.equal();
    return judge_values(slot, f, r);
  }

  double magnitude(Slot& slot) const {
    table_.load(slot);
    return slot.magnitude;
  }

  Result nothing_compared(Slot& slot, Result r) const {
    if (r.tap.ends_with(".code") || r.tap.ends_with(".scale") || r.tap.ends_with(".margin")) {
      r.verdict = Verdict::skipped;
      r.reason = "nothing is quantised or decided here in these numerics";
    } else if (slot.keys.empty() || slot.info->size() == 0) {
      r.verdict = Verdict::skipped;
      r.reason = "empty";
    } else if (r.tap.starts_with("mtp.") && config_.n_mtp_layers > 0 && slot.width > 0 &&
               no_next_id(slot)) {
      r.verdict = Verdict::skipped;
      r.reason = "no next id";
    } else if (known(r.tap)->info->axes[0] == "b") {
      r.verdict = Verdict::skipped;
      r.reason = options_.chunks.empty() ? "no live rows" : "no call of this split ends here";
    } else {
      r.position = position(slot, slot.keys.front());
      return fail(r, "the reference has no such value here");
    }
    return r;
  }

  bool no_next_id(const Slot& slot) const { return slot.keys.front() + 1 >= table_.id_count(); }

  // A pending choice is right if perturbed runs move its scores as far: two scores, each as far off
  // as twice the largest member.
  void settle(Finding& f, Result& r) const {
    for (PendingChoice& p : f.pending_choices) {
      p.choice.band = std::max(p.choice.band, 4 * judge_.row_spread(p.scores, p.key));
      Comparer::note_choice(f, p.choice, p.row);
    }
    r.replays = f.replays;
    r.margin = f.margin;
  }

  Result judge_choice(Slot& slot, Finding& f, Result r) const {
    settle(f, r);
    r.noisy_rows = f.noisy_rows;
    r.verdict = Verdict::passed;
    const Choice& c = f.worst_choice;
    r.error = c.gap;
    r.bound = std::max(0.0, c.band);
    if (f.choice_row >= 0) {
      r.index = slot.info->shape.size() > 1 ? std::vector<std::int64_t>{f.choice_row, c.column}
                                            : std::vector<std::int64_t>{f.choice_row};
      r.position = position(slot, slot.keys[static_cast<std::size_t>(f.choice_row)]);
    }
    if (f.illegal) {
      return fail(r, !c.problem.empty() ? c.problem : "another choice than the scores allow");
    }
    if (f.rows < static_cast<std::int64_t>(slot.keys.size()) && r.tap.ends_with(".rows") &&
        options_.chunks.empty() && options_.selection.last_row < options_.selection.first_row) {
      return fail(r, "lists tokens that the routing does not send to this expert");
    }
    if (f.open) {
      r.verdict = Verdict::mistrusted;
      r.reason = "the scores may err by as much as they differ: any other choice would have passed";
    }
    return r;
  }

  void place(Slot& slot, const Worst& w, Result& r) const {
    r.error = w.error;
    r.bound = w.bound;
    r.ours = w.ours;
    r.theirs = w.theirs;
    r.index = coordinates(slot, w.row, w.column);
    const auto key = known(r.tap)->info->axes[0] == "b"
                         ? 0
                         : slot.keys[static_cast<std::size_t>(slot.keys.size() == 1 ? 0 : w.row)];
    r.position = position(slot, key);
  }

  // How far repeats of the run are apart: beside the stage's bounds, or beside the ensemble's.
  static void note_noise(const Finding& f, Result& r) {
    r.spread = f.noise.max_error();
    const bool by_ensemble = f.by_ensemble && f.span.rows() > 0;
    r.spread_ratio =
        by_ensemble ? ratio(r.spread, 2 * f.spread_max) : std::max(0.0, f.noise.worst().ratio);
  }

  static void note_statistics(const ErrorStatistics& s, Result& r) {
    if (!s.judged()) return;
    r.rms = s.rms();
    r.rms_bound = s.rms_bound();
    r.bias = s.bias();
    r.bias_bound = s.bias_bound();
  }

  Result judge_values(Slot& slot, Finding& f, Result r) const {
    std::vector<Worst> over;
    for (PendingRow& p : f.pending) {
      // Over the ceiling: right only if runs that differ by roundings alone differ as much (a tie
      // fell differently).
      const double spread = 2 * judge_.row_spread(r.tap, p.key);
      p.worst.bound = std::max(p.worst.bound, spread);
      p.worst.ratio = ratio(p.worst.error, p.worst.bound);
      over.push_back(p.worst);
      if (p.worst.ratio <= 1) ++r.behind_choices;
    }
    note_noise(f, r);
    Worst worst = f.stage.worst();
    if (f.by_ensemble && f.span.rows() > 0) {
      Worst w = f.span.worst();
      const double rms = f.span.rms_error();
      w.bound = 2 * f.spread_max;
      if (w.ratio <= 0) w.ratio = std::max(ratio(w.error, w.bound), ratio(rms, 2 * f.spread_rms));
      over.push_back(w);
    } else {
      over.push_back(f.span.worst());
    }
    for (const Worst& w : over) {
      if (w.ratio > worst.ratio) worst = w;
    }
    if (worst.row >= 0) place(slot, worst, r);
    note_statistics(f.statistics, r);
    if (worst.ratio > 1) return fail(r, r.error <= r.bound ? by_root_mean_square(f) : "");
    if (!f.statistics.within()) {
      const bool large = r.rms > r.rms_bound;
      return fail(
          r, large ? fmt::format("errors are {:.2f} times what rounding makes them; at most {:.2f}",
                                 r.rms, r.rms_bound)
                   : fmt::format("errors lean by {:+.2f} of their size; at most {:.2f}", r.bias,
                                 r.bias_bound));
    }
    return passed_or_mistrusted(slot, f, r);
  }

  // Nothing was found wrong. Could anything have been?
  static Result passed_or_mistrusted(const Slot& slot, const Finding& f, Result r) {
    const bool bytes = slot.info->integer;
    const bool nothing = (f.stage.rows() == 0 || f.stage.meaningless(bytes)) &&
                         (f.span.rows() == 0 || f.span.meaningless(bytes)) && f.pending.empty();
    if (nothing) {
      r.reason = "all zero, constant or not finite";
    } else if (r.equal < r.elements && f.pending.empty() && decides_nothing(f)) {
      r.reason = fmt::format(
          "the bound {:.1e} is as large as the values (up to {:.1e}): one constant would have "
          "passed, nothing was decided",
          r.bound, r.magnitude);
    }
    r.verdict = r.reason.empty() ? Verdict::passed : Verdict::mistrusted;
    return r;
  }

  // A trace that is one constant is no evidence; neither are bounds that would have let one pass.
  static bool decides_nothing(const Finding& f) {
    const bool stage =
        f.stage.rows() > 0 && !(f.stage.constant_within() && f.statistics.constant_within());
    const bool span = f.span.rows() > 0 &&
                      !(f.by_ensemble ? f.span.constant_within(2 * f.spread_max, 2 * f.spread_rms)
                                      : f.span.constant_within());
    return !stage && !span;
  }

  // The largest error would do; all of them together do not.
  static std::string by_root_mean_square(const Finding& f) {
    return fmt::format("errors are {:.2f} times the ensemble's in the root mean square; at most 2",
                       f.span.rms_error() / f.spread_rms);
  }

  // A bound or a spread that is not finite excuses nothing.
  static double ratio(double error, double bound) {
    if (error == 0) return 0;
    const bool known = bound > 0 && std::isfinite(bound) && std::isfinite(error);
    return known ? error / bound : INFINITY;
  }

  // Stages that were computed in a call of the trace and are not in it.
  void add_absent() {
    std::set<std::pair<std::string, std::size_t>> have;
    for (const Slot& s : table_.slots()) have.insert({s.info->name, s.call});
    for (const auto& [tap, starts] : judge_.computed()) {
      const auto m = known(tap);
      if (!m || m->info->optional || !in_layers(m)) continue;
      std::set<std::size_t> calls;
      for (const std::int64_t start : starts) {
        for (std::size_t c = 0; c < table_.calls().size(); ++c) {
          if (table_.calls()[c].start <= start && start < table_.calls()[c].end) calls.insert(c);
        }
      }
      for (const std::size_t c : calls) {
        if (!have.contains({tap, c}) &&
            options_.selection.accepts(tap, c, options_.selection.first_row))
          add_absent(tap, *m, c);
      }
    }
  }

  void add_absent(const std::string& tap, const TapMatch& m, std::size_t call) {
    Result r;
    r.tap = tap;
    r.call = static_cast<int>(call);
    r.order = m.info->order;
    r.block = m.block;
    const bool required = std::any_of(options_.require.begin(), options_.require.end(),
                                      [&](const auto& g) { return glob_match(g, tap); });
    const auto& hidden = options_.not_exposed;
    const bool fused = std::any_of(hidden.begin(), hidden.end(), [&](const auto& name) {
      return name == tap || name == m.info->name;
    });
    r.verdict = required ? Verdict::failed : fused ? Verdict::not_exposed : Verdict::absent;
    if (r.verdict == Verdict::not_exposed)
      r.reason = "the port declares that it has no such tensor";
    if (required) {
      r.reason = "required, and not in the trace";
      r.position = table_.calls()[call].start;
    }
    results_.push_back(std::move(r));
  }

  TraceTable& table_;
  const ModelConfig& config_;
  Comparer& judge_;
  const VerifyOptions& options_;
  std::vector<Result> results_;
};

}  // namespace

std::vector<Result> conclude(TraceTable& table, const ModelConfig& config, Comparer& judge,
                             const VerifyOptions& options) {
  return Conclusion(table, config, judge, options).results();
}

}  // namespace dsv4::conformance
