// SPDX-License-Identifier: Apache-2.0
// The discrete half of the comparer: chosen entries and experts, window positions, rows sent to an
// expert.
#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <numeric>

#include "conformance/comparer.hpp"

namespace dsv4::conformance {
namespace {

constexpr double kUndecided = -1;  // the band of scores whose error only an ensemble knows

}  // namespace

// Remembers by how much the scores of a row may be wrong, for the choice that follows.
void Comparer::keep_band(const TapMatch& m, const std::string& tap, std::int64_t key,
                         const Ours& scores, const Origin& origin) {
  if (scores.scale.empty()) return;
  Real magnitude = 0;
  for (const Real s : scores.values) {
    if (std::isfinite(s)) magnitude = std::max(magnitude, std::abs(s));
  }
  const bool fp64 = default_unit_ <= 0x1p-53;
  const double single = sum_behind(m, config_).single;
  std::vector<double> band(scores.values.size());
  for (std::size_t c = 0; c < band.size(); ++c) {
    const double running = running_error(hidden_, static_cast<double>(scores.scale[c]), single);
    // Through several stages: what span_bound allows; without a closed bound the ensemble decides
    // later.
    band[c] = origin.single && !scores.composite ? running
              : fp64 ? std::max(running, kCeiling * static_cast<double>(magnitude))
                     : kUndecided;
  }
  if (!(origin.single && !scores.composite) && base_ == nullptr)
    scores_[{tap, key}] = Eigen::Map<const Row>(scores.values.data(), std::ssize(scores.values));
  bands_[tap][key] = std::move(band);
}

void Comparer::on_index(IndexEvent& event) {
  const std::string tap(event.name);
  const auto m = find_tap(tap, static_cast<int>(config_.n_layers));
  if (!m) return;
  computed_[tap].push_back(call_.start);
  if (m->expert >= 0) return on_expert_rows(event);
  const std::int64_t width = event.shape[1];
  // The hash table has an order of its own; every other choice is a set.
  const bool ordered = tap.ends_with("gate.indices") && config_.hash_routed(m->block);
  for (std::int64_t i = 0; i < event.shape[0]; ++i) {
    const std::int64_t key = call_.start + i;
    const auto ours =
        event.values.subspan(static_cast<std::size_t>(i * width), static_cast<std::size_t>(width));
    const Origin origin = provenance_.derive(tap, key);
    const RowRef ref = table_.find(tap, key);
    if (!ref.slot) {
      if (base_ == nullptr) note_hidden(event, key, i, ours);
      provenance_.mark_ours(tap, key, origin);
      continue;
    }
    judge_choice(event, ref, origin, key, i, ours, ordered);
    if (mode_ == Mode::local) {
      provenance_.mark_present(tap, key);
    } else {
      provenance_.mark_ours(tap, key, origin);
    }
  }
}

void Comparer::judge_choice(const IndexEvent& event, const RowRef& ref, const Origin& origin,
                            std::int64_t key, std::int64_t row, std::span<std::int32_t> ours,
                            bool ordered) {
  const auto theirs = std::span<const std::int64_t>(ref.slot->integers)
                          .subspan(static_cast<std::size_t>(ref.row * ref.slot->width),
                                   static_cast<std::size_t>(ref.slot->width));
  std::vector<double> scores;
  if (event.scores) scores.assign(event.scores->row(row).begin(), event.scores->row(row).end());
  const std::string scores_tap(event.scores_name);
  Choice c = compare_choice(ours, theirs, scores, band_of(event, key, scores));
  if (ordered && !std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end())) {
    c.same = false;
    c.gap = INFINITY;
  }
  // Behind several stages the scores' errors have no closed bound: the ensemble tells.
  const bool undecided = c.valid && !c.same && event.scores &&
                         scores_.contains({scores_tap, key}) && (c.band < 0 || !c.legal());
  const bool judged =
      base_ == nullptr && selection_.accepts(std::string(event.name), ref.slot->call, key);
  if (judged) {
    Finding& f = finding(ref, origin);
    note_noise(f, ref, key);
    if (undecided) {
      f.pending_choices.push_back({scores_tap, key, ref.row, c});
      base_rows_[{scores_tap, key}] = scores_[{scores_tap, key}];
      unbounded_ |= c.band < 0;
      over_ceiling_ = true;
    } else {
      note_choice(f, c, ref.row);
    }
  }
  const bool replay = c.valid && (mode_ == Mode::local || c.legal() || undecided);
  if (!replay) return;
  std::fill(ours.begin(), ours.end(), -1);
  std::size_t at = 0;
  for (const std::int64_t t : theirs) {
    if (t >= 0 && at < ours.size()) ours[at++] = static_cast<std::int32_t>(t);
  }
}

void Comparer::note_noise(Finding& f, const RowRef& ref, std::int64_t key) {
  const auto chosen = [](const RowRef& r) {
    const auto row = std::span<const std::int64_t>(r.slot->integers)
                         .subspan(static_cast<std::size_t>(r.row * r.slot->width),
                                  static_cast<std::size_t>(r.slot->width));
    return std::multiset<std::int64_t>(row.begin(), row.end());
  };
  const bool noisy = std::any_of(repeats_.begin(), repeats_.end(), [&](TraceTable& repeat) {
    const RowRef other = repeat.find(ref.slot->info->name, key);
    return other.slot && chosen(other) != chosen(ref);
  });
  if (noisy) ++f.noisy_rows;
}

void Comparer::note_choice(Finding& f, const Choice& c, std::int64_t row) {
  const bool illegal = !c.legal();
  if (!c.same && !illegal) {
    ++f.replays;
    f.margin = std::max(f.margin, c.gap);
    f.open |= c.open();
  }
  if (illegal ? !f.illegal || c.gap > f.worst_choice.gap
              : !f.illegal && c.gap >= f.worst_choice.gap) {
    f.worst_choice = c;
    f.choice_row = row;
  }
  f.illegal |= illegal;
}

// By how much each score may be wrong: what its stage allows, and the rounding of its storage.
std::vector<double> Comparer::band_of(const IndexEvent& event, std::int64_t key,
                                      std::span<const double> scores) {
  std::vector<double> band;
  const auto known = bands_.find(std::string(event.scores_name));
  if (known != bands_.end() && known->second.contains(key)) band = known->second[key];
  band.resize(scores.size(), 0);
  const Slot* slot = table_.find(std::string(event.scores_name), key).slot;
  // What is ranked was added up (the bias) and stored in the trace's own arithmetic.
  const double rounding =
      slot && mode_ == Mode::local ? slot->precision.store + slot->precision.unit : 0;
  for (std::size_t c = 0; c < band.size(); ++c) {
    if (band[c] != kUndecided && std::isfinite(scores[c]))
      band[c] += (rounding + 0x1p-52) * std::abs(scores[c]);
  }
  return band;
}

// Counts choices that the trace does not show and that errors within the scores' band could turn.
void Comparer::note_hidden(const IndexEvent& event, std::int64_t key, std::int64_t row,
                           std::span<const std::int32_t> ours) {
  if (!event.scores) return;
  const std::vector<double> scores(event.scores->row(row).begin(), event.scores->row(row).end());
  const std::vector<double> band = band_of(event, key, scores);
  std::vector<bool> chosen(scores.size(), false);
  double last = INFINITY;
  for (const std::int32_t i : ours) {
    if (i < 0) continue;
    const auto at = static_cast<std::size_t>(i);
    chosen[at] = true;
    if (band[at] == kUndecided) return void(++hidden_choices_);
    last = std::min(last, scores[at] - band[at]);
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!chosen[i] && scores[i] + band[i] >= last) return void(++hidden_choices_);
  }
}

// The trace lists who visits this expert in this call, and leaves this token out.
void Comparer::missing_visit(const std::string& tap, std::int64_t position) {
  for (std::size_t c = 0; c < table_.calls().size(); ++c) {
    Slot* slot = table_.slot(tap, c);
    if (!slot || position < table_.calls()[c].start || position >= table_.calls()[c].end) continue;
    if (base_ != nullptr || !selection_.accepts(tap, c, position)) return;
    Finding& f = findings_[slot];
    f.illegal = true;
    f.worst_choice.problem =
        fmt::format("the token at position {} visits this expert and is not listed", position);
  }
}

void Comparer::on_expert_rows(const IndexEvent& event) {
  const std::string tap(event.name);
  std::vector<std::int64_t> positions;
  for (const std::int32_t r : event.values) positions.push_back(call_.start + r);
  for (const std::int64_t p : positions) {
    const Origin origin = provenance_.derive(tap, p);
    const RowRef ref = table_.find(tap, p);
    if (ref.slot && mode_ == Mode::local) {
      provenance_.mark_present(tap, p);
    } else {
      provenance_.mark_ours(tap, p, origin);
    }
    // Rows of the trace that no token of ours reaches are noticed when the report is made.
    if (ref.slot && base_ == nullptr && selection_.accepts(tap, ref.slot->call, p))
      finding(ref, origin);
    if (!ref.slot) missing_visit(tap, p);
  }
  expert_rows_[tap.substr(0, tap.rfind('.'))] = std::move(positions);
}

}  // namespace dsv4::conformance
