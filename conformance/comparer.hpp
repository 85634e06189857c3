// SPDX-License-Identifier: Apache-2.0
// The sink that judges: every tapped value of a run against the rows of a trace. In local mode the
// trace's rows then replace ours before they flow on, so that an error shows only where it is born.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "conformance/compare.hpp"
#include "conformance/decisions.hpp"
#include "conformance/provenance.hpp"
#include "conformance/trace_table.hpp"
#include "core/taps.hpp"
#include "core/trace.hpp"

namespace dsv4::conformance {

enum class Mode { local, chained };

// What is judged. Everything in the trace is still fed back in local mode.
struct Selection {
  std::vector<std::string> taps;              // globs; empty: all
  std::int64_t call = -1;                     // of the trace; -1: all
  std::int64_t first_row = 0, last_row = -1;  // absolute positions; last < first: all
  bool accepts(const std::string& tap, std::size_t call_of_slot, std::int64_t position) const;
};

// A row whose error exceeds what its span may show, until the ensemble has spoken.
struct PendingRow {
  std::int64_t key = 0;
  std::int64_t row = 0;  // of the dataset
  Worst worst;
};

// A choice that the errors of one stage do not explain, behind several stages.
struct PendingChoice {
  std::string scores;  // the tap of its scores
  std::int64_t key = 0;
  std::int64_t row = 0;  // of the dataset
  Choice choice;
};

// Everything known about one dataset after a run.
struct Finding {
  Comparison stage;            // rows recomputed from the trace's own inputs: derived bound
  ErrorStatistics statistics;  // of the same rows
  Comparison span;             // rows recomputed through stages that the trace lacks
  std::vector<PendingRow>
      pending;               // fp64: over the ceiling, perhaps behind a decision nobody wrote down
  bool by_ensemble = false;  // not fp64: `span` is judged by the ensemble's spread
  Choice worst_choice;       // discrete taps
  std::vector<PendingChoice> pending_choices;
  bool illegal = false;
  bool open = false;  // some row differs where any choice would have been legal
  std::int64_t choice_row = -1;
  Comparison noise;             // of repeats of the run, against the trace that is judged
  std::int64_t noisy_rows = 0;  // discrete taps: rows in which some repeat chose differently
  std::int64_t rows = 0, inherited = 0, replays = 0;
  double margin = 0;
  int origin = -1;                        // interned span
  double spread_max = 0, spread_rms = 0;  // of the ensemble; twice these are the bounds
};

class Comparer : public TapSink {
 public:
  using BaseRows = std::map<std::pair<std::string, std::int64_t>, Row>;

  Comparer(TraceTable& table, const ModelConfig& config, Mode mode, Selection selection,
           double default_unit);

  void on_call(std::int64_t start, std::int64_t end) override;
  void on_value(TapEvent& event) override;
  void on_index(IndexEvent& event) override;
  bool wants(std::string_view name) const override;

  // Further traces of the same run: how far they are from the one that is judged is noted, in units
  // of its bounds. They must outlive this.
  void compare_repeats(std::vector<TraceTable>& repeats) { repeats_ = repeats; }
  // Makes this comparer a member of the ensemble around `base`: it judges nothing and measures its
  // distance to it.
  void perturb(const Perturbation& p, const Comparer& base);
  // Takes a member's distances into the findings of this, the judging run.
  void absorb(const Comparer& member);
  // Only where a span has no closed bound, or holds a choice that the trace does not show and that
  // roundings can turn.
  bool needs_ensemble() const { return unbounded_ || (over_ceiling_ && hidden_choices_ > 0); }

  std::map<const Slot*, Finding>& findings() { return findings_; }
  // Largest distance of a member from this run in one row; 0 when none was measured.
  static void note_choice(Finding& f, const Choice& c, std::int64_t row);
  double row_spread(const std::string& tap, std::int64_t key) const;
  const Provenance& provenance() const { return provenance_; }
  const std::map<std::string, std::vector<std::int64_t>>& computed() const {
    return computed_;
  }  // tap -> call starts
  // Rows that enter a tap from outside the run (streams for --layers).
  void mark_given(const std::string& tap, const Call& call);

  double seconds = 0;
  std::int64_t bytes = 0;

 private:
  struct Keys {
    std::int64_t first = 0;
    std::int64_t count = 0;
    const std::vector<std::int64_t>* listed = nullptr;  // expert rows
    std::int64_t operator[](std::int64_t i) const {
      return listed ? (*listed)[static_cast<std::size_t>(i)] : first + i;
    }
  };
  Keys keys_of(const TapMatch& m, std::span<const std::int64_t> shape) const;
  std::int64_t position_of(const TapMatch& m, std::int64_t key) const;
  // One row of a tap as the reference computed it.
  struct Ours {
    std::span<Real> values;
    std::span<const Real> before;  // rounding; empty: not rounded
    Format grid = Format::none;
    bool composite = false;       // rounded inside the stage too
    std::span<const Real> scale;  // E of the stage; empty: exact
  };
  void judge_row(const RowRef& ref, const Origin& origin, std::int64_t key, const Ours& ours);
  std::vector<double> bounds(const RowRef& ref, const Origin& origin, const Ours& ours,
                             std::span<const double> theirs) const;
  static void note_errors(Finding& f, const Slot& slot, const Ours& ours,
                          std::span<const double> theirs);
  void note_noise(Finding& f, const RowRef& ref, std::int64_t key, std::span<const double> bound);
  void note_noise(Finding& f, const RowRef& ref, std::int64_t key);  // choices
  void measure(const Slot* slot, const std::string& tap, std::int64_t key,
               std::span<const Real> ours);
  bool right_width(const TapMatch& m, Slot& slot, std::span<const std::int64_t> shape) const;
  void keep_band(const TapMatch& m, const std::string& tap, std::int64_t key, const Ours& scores,
                 const Origin& origin);
  void on_state(const TapMatch& m, TapEvent& event);
  void on_expert_rows(const IndexEvent& event);
  void missing_visit(const std::string& tap, std::int64_t position);
  void judge_choice(const IndexEvent& event, const RowRef& ref, const Origin& origin,
                    std::int64_t key, std::int64_t row, std::span<std::int32_t> ours, bool ordered);
  std::vector<double> band_of(const IndexEvent& event, std::int64_t key,
                              std::span<const double> scores);
  void note_hidden(const IndexEvent& event, std::int64_t key, std::int64_t row,
                   std::span<const std::int32_t> ours);
  void watch_expert(const TapMatch& m, std::int64_t position, bool present);
  void shake(const TapMatch& m, const std::string& tap, std::int64_t key, const Slot* slot,
             const Ours& ours) const;
  Finding& finding(const RowRef& ref, const Origin& origin);

  TraceTable& table_;
  const ModelConfig& config_;
  Mode mode_;
  Selection selection_;
  double default_unit_;
  Precision hidden_;  // of stages that the trace does not show
  Provenance provenance_;
  Call call_;
  std::map<const Slot*, Finding> findings_;
  std::map<std::string, std::vector<std::int64_t>> computed_;
  std::map<std::string, std::map<std::int64_t, std::vector<double>>>
      bands_;  // scores tap -> row -> error band
  std::map<std::pair<std::string, std::int64_t>, Row>
      scores_;                       // of this call, where the trace has none
  bool unbounded_ = false;           // some difference in a span without a closed bound
  bool over_ceiling_ = false;        // fp64: some row exceeds what its span may show
  std::int64_t hidden_choices_ = 0;  // not in the trace, and within their scores' error
  std::map<std::string, std::vector<std::int64_t>>
      expert_rows_;  // "layers.3.ffn.experts.7" -> positions
  std::map<std::string, std::map<std::int64_t, int>> experts_seen_;
  BaseRows base_rows_;  // ours, before replacement, where an ensemble must judge
  std::span<TraceTable> repeats_;
  const Comparer* base_ = nullptr;
  Perturbation perturbation_;
  struct Spread {
    double max = 0, sum_squares = 0;
    std::int64_t count = 0;
  };
  std::map<const Slot*, Spread> slot_spread_;
  std::map<std::pair<std::string, std::int64_t>, double> row_spread_;
};

}  // namespace dsv4::conformance
