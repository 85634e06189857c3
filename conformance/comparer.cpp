// SPDX-License-Identifier: Apache-2.0
#include "conformance/comparer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <limits>

#include "core/rng.hpp"

namespace dsv4::conformance {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Axes whose extent depends on how the sequence was split into calls.
bool grows(std::string_view axis) { return axis == "t" || axis == "k" || axis == "u"; }

std::string expert_prefix(std::string_view tap) {
  return std::string(tap.substr(0, tap.rfind('.')));
}

std::span<const double> row_of(const Slot& slot, std::int64_t row) {
  return std::span(slot.values)
      .subspan(static_cast<std::size_t>(row * slot.width), static_cast<std::size_t>(slot.width));
}

// Has the stage a bound of its own? Not if it was recomputed through stages that the trace lacks,
// nor if it rounds values that nobody sees, as a chain of sums does in a coarse type.
bool closed(const Origin& origin, bool composite, const Slot& slot) {
  const bool chain = slot.precision.coarse() && slot.sum.inside > 0;
  return origin.single && !composite && !chain;
}

// Root mean square of a row's finite values.
double typical(std::span<const Real> row) {
  double squares = 0, count = 0;
  for (const Real v : row) {
    if (!std::isfinite(v)) continue;
    squares += static_cast<double>(v * v);
    ++count;
  }
  return count == 0 ? 0 : std::sqrt(squares / count);
}

// Weights without their indices can only be compared as a set.
bool unaligned_weights(const std::string& tap, TraceTable& table, std::int64_t key) {
  constexpr std::string_view leaf = "ffn.gate.weights";
  if (!tap.ends_with(leaf)) return false;
  return table.find(tap.substr(0, tap.size() - 7) + "indices", key).slot == nullptr;
}

}  // namespace

bool Selection::accepts(const std::string& tap, std::size_t call_of_slot,
                        std::int64_t position) const {
  if (call >= 0 && static_cast<std::size_t>(call) != call_of_slot) return false;
  if (last_row >= first_row && (position < first_row || position > last_row)) return false;
  return taps.empty() ||
         std::any_of(taps.begin(), taps.end(), [&](const auto& g) { return glob_match(g, tap); });
}

Comparer::Comparer(TraceTable& table, const ModelConfig& config, Mode mode, Selection selection,
                   double default_unit)
    : table_(table),
      config_(config),
      mode_(mode),
      selection_(std::move(selection)),
      default_unit_(default_unit),
      // Official numerics say themselves where a stage is stored in BF16.
      hidden_(arithmetic_of(table.official() ? std::min(default_unit, Precision::kFloat32)
                                             : default_unit)),
      provenance_(config, [this](const std::string& tap) {
        return mode_ == Mode::local && table_.exposes(tap);
      }) {}

void Comparer::on_call(std::int64_t start, std::int64_t end) {
  call_ = {start, end};
  expert_rows_.clear();
  experts_seen_.clear();
  bands_.clear();
  scores_.clear();
  table_.release_before(start);
}

bool Comparer::wants(std::string_view name) const {
  const auto m = find_tap(name, static_cast<int>(config_.n_layers));
  if (!m) return false;
  if (!m->info->optional) return true;
  if (const auto at = name.find(".experts."); at != name.npos) {
    // One watched expert makes all of the block worth watching: `routed` reads every one of them.
    return base_ != nullptr || table_.exposes_prefix(std::string(name.substr(0, at + 9)));
  }
  return table_.exposes(std::string(name));
}

void Comparer::mark_given(const std::string& tap, const Call& call) {
  for (auto p = call.start; p < call.end; ++p) provenance_.mark_present(tap, p);
}

Comparer::Keys Comparer::keys_of(const TapMatch& m, std::span<const std::int64_t> shape) const {
  const std::string& axis = m.info->axes[0];
  if (axis == "v") return {call_.end - 1, 1};  // unless the event says where
  if (axis == "e")
    return {call_.start / std::max<std::int64_t>(1, config_.ratio(m.block)), shape[0]};
  return {call_.start, shape[0]};
}

std::int64_t Comparer::position_of(const TapMatch& m, std::int64_t key) const {
  return m.info->axes[0] == "e" ? key * config_.ratio(m.block) : key;
}

bool Comparer::right_width(const TapMatch& m, Slot& slot,
                           std::span<const std::int64_t> shape) const {
  const std::size_t first = m.info->axes[0] == "v" ? 0 : 1;
  for (std::size_t a = first; a < m.info->axes.size(); ++a) {
    if (grows(m.info->axes[a]) || slot.info->shape[a] == shape[a]) continue;
    slot.problem =
        fmt::format("expected [{}] = [{}] after the first axis, found shape [{}]",
                    fmt::join(m.info->axes.begin() + 1, m.info->axes.end(), ", "),
                    fmt::join(shape.subspan(first), ", "), fmt::join(slot.info->shape, ", "));
    return false;
  }
  return true;
}

void Comparer::on_value(TapEvent& event) {
  const std::string tap(event.name);
  const auto m = find_tap(tap, static_cast<int>(config_.n_layers));
  if (!m) return;
  if (m->info->axes[0] == "b") return on_state(*m, event);
  const auto begin = Clock::now();
  Keys keys = keys_of(*m, event.shape);
  if (event.position >= 0) keys.first = event.position;
  if (m->expert >= 0) keys.listed = &expert_rows_[expert_prefix(tap)];
  const std::size_t width =
      keys.count == 0 ? 0 : event.values.size() / static_cast<std::size_t>(keys.count);
  computed_[tap].push_back(call_.start);
  Mat scale;
  const bool ranks = m->info->name.ends_with("score") || m->info->name.ends_with("scores");
  const auto row_of_ours = [&](std::int64_t i, bool with_scale) {
    const auto at = static_cast<std::size_t>(i) * width;
    Ours ours{event.values.subspan(at, width), {}, event.grid, event.composite, {}};
    if (has_grid(event.grid)) ours.before = event.before.subspan(at, width);
    if (!with_scale || !event.error) return ours;
    if (scale.size() == 0) scale = event.error();
    ours.scale = std::span<const Real>(scale.data() + at, width);
    return ours;
  };
  for (std::int64_t i = 0; i < keys.count; ++i) {
    const std::int64_t key = keys[i];
    const Origin origin = provenance_.derive(tap, key);
    RowRef ref = table_.find(tap, key);
    if (ref.slot && !right_width(*m, *ref.slot, event.shape)) ref = {};
    const bool present = ref.slot && mode_ == Mode::local;
    const bool judged = base_ == nullptr && ref.slot &&
                        selection_.accepts(tap, ref.slot->call, position_of(*m, key));
    const bool shaken =
        perturbation_.seed != 0 && !(present && closed(origin, event.composite, *ref.slot));
    const Ours ours = row_of_ours(i, judged || shaken || (ranks && !present));
    if (shaken) shake(*m, tap, key, ref.slot, ours);
    if (base_ != nullptr) measure(ref.slot, tap, key, ours.values);
    if (judged) judge_row(ref, origin, key, ours);
    if (!present && ranks) keep_band(*m, tap, key, ours, origin);
    if (present) {
      const auto theirs = row_of(*ref.slot, ref.row);
      std::copy_n(theirs.begin(), std::min(theirs.size(), ours.values.size()), ours.values.begin());
      provenance_.mark_present(tap, key);
    } else {
      provenance_.mark_ours(tap, key, origin);
    }
    if (m->expert >= 0 && tap.ends_with(".out")) watch_expert(*m, key, present);
  }
  seconds += seconds_since(begin);
}

// A member's error: that of the stage's operations, as independent roundings make it; that of the
// store in a coarse type, anywhere within half a step; and those of the stores inside the stage,
// whose values are added up: they are as large as the steps of its typical result.
void Comparer::shake(const TapMatch& m, const std::string& tap, std::int64_t key, const Slot* slot,
                     const Ours& ours) const {
  if (ours.scale.empty()) return;
  const Precision& p = slot ? slot->precision : hidden_;
  const Sum sum = sum_behind(m, config_);
  const RoundingModel roundings =
      slot ? slot->roundings : rounding_model(sum, table_.products(), p.sums);
  const std::span<const Real> before = ours.before.empty() ? ours.values : ours.before;
  const double store = ours.before.empty() ? std::max(p.coarse() ? p.unit : 0, p.store) : 0;
  const double inside = p.coarse() ? std::sqrt(sum.inside) * spacing(p.unit, typical(before)) : 0;
  const Rng operations(perturbation_.seed, tap), stores(perturbation_.seed, tap + " stored"),
      hidden(perturbation_.seed, tap + " inside");
  for (std::size_t c = 0; c < ours.values.size(); ++c) {
    if (ours.scale[c] == 0) continue;  // a copy
    const std::uint64_t at = static_cast<std::uint64_t>(key) * ours.values.size() + c;
    const auto share = [&](const Rng& rng) { return 2 * rng.uniform(at) - 1; };
    double error =
        share(operations) * roundings.reach() * roundings.unit * static_cast<double>(ours.scale[c]);
    if (inside > 0) error += share(hidden) * inside / 2;
    if (store > 0) error += share(stores) * spacing(store, static_cast<double>(before[c])) / 2;
    ours.values[c] = stored(ours.grid, before[c] + static_cast<Real>(error));
  }
}

Finding& Comparer::finding(const RowRef& ref, const Origin& origin) {
  Finding& f = findings_[ref.slot];
  f.origin = f.origin < 0 ? origin.span : provenance_.merge(f.origin, origin.span);
  ++f.rows;
  f.inherited += origin.inherited;
  return f;
}

std::vector<double> Comparer::bounds(const RowRef& ref, const Origin& origin, const Ours& ours,
                                     std::span<const double> theirs) const {
  const Precision& p = ref.slot->precision;
  const double magnitude = ref.slot->magnitude;
  std::vector<double> bound(ours.values.size());
  for (std::size_t i = 0; i < bound.size(); ++i) {
    const auto value = static_cast<double>(ours.values[i]);
    const double scale = ours.scale.empty() ? 0 : static_cast<double>(ours.scale[i]);
    bound[i] = origin.single ? stage_bound(p, scale, value, magnitude, ref.slot->sum.single)
                             : span_bound(p, value, magnitude);
    // A missing column of theirs is judged by its mask alone.
    if (!origin.single || ours.before.empty() || i >= theirs.size()) continue;
    bound[i] =
        stored_bound(ours.grid, static_cast<double>(ours.before[i]), bound[i], value, theirs[i]);
  }
  return bound;
}

void Comparer::judge_row(const RowRef& ref, const Origin& origin, std::int64_t key,
                         const Ours& ours) {
  Finding& f = finding(ref, origin);
  const Precision& p = ref.slot->precision;
  std::vector<double> a(ours.values.begin(), ours.values.end());
  const auto stored = row_of(*ref.slot, ref.row);
  std::vector<double> b(stored.begin(), stored.end());
  bytes += static_cast<std::int64_t>((a.size() + b.size()) * sizeof(double));
  const bool unaligned = unaligned_weights(ref.slot->info->name, table_, key);
  if (unaligned) {
    std::sort(a.begin(), a.end(), std::greater<>());
    std::sort(b.begin(), b.end(), std::greater<>());
  }
  const std::vector<double> bound = bounds(ref, origin, ours, b);
  note_noise(f, ref, key, bound);
  if (closed(origin, ours.composite, *ref.slot)) {
    if (!unaligned) note_errors(f, *ref.slot, ours, stored);
    return f.stage.add_row(ref.row, a, b, bound);
  }
  const auto keep = [&] {
    base_rows_[{ref.slot->info->name, key}] =
        Eigen::Map<const Eigen::RowVectorXd>(a.data(), std::ssize(a)).cast<Real>();
  };
  if (!p.exact_ceiling) {
    f.by_ensemble = true;
    unbounded_ |= a != b || f.noise.max_error() > 0;
    f.span.set_judge_by_ensemble();
    keep();
    return f.span.add_row(ref.row, a, b, bound);
  }
  Comparison one;
  one.add_row(ref.row, a, b, bound);
  if (one.within()) return f.span.add_row(ref.row, a, b, bound);
  f.pending.push_back({key, ref.row, one.worst()});
  over_ceiling_ = true;
  keep();
}

// Beside each error what its size should be: that of the operations, and that of the store.
void Comparer::note_errors(Finding& f, const Slot& slot, const Ours& ours,
                           std::span<const double> theirs) {
  const bool grid = has_grid(ours.grid) && !ours.before.empty();
  if (!grid && (slot.sum.terms == 0 || ours.scale.empty())) return;
  const double unit = slot.precision.sums + reference_roundoff();
  std::vector<ErrorStatistics::Element> row(std::min(ours.values.size(), theirs.size()));
  for (std::size_t i = 0; i < row.size(); ++i) {
    const auto value = static_cast<double>(ours.values[i]);
    const double before = grid ? static_cast<double>(ours.before[i]) : value;
    const double scale = ours.scale.empty() ? 0 : unit * static_cast<double>(ours.scale[i]);
    const double step = grid                      ? spacing(ours.grid, before)
                        : slot.precision.coarse() ? spacing(slot.precision.unit, value)
                                                  : 2 * slot.precision.store * std::abs(value);
    if (scale == 0 && before == value) continue;  // a copy
    row[i].error = std::copysign(1.0, value) * (theirs[i] - before);
    // Inputs that were rounded when they were dumped: n terms, each off by its own share.
    const double dumped = slot.precision.coarse() && slot.sum.terms > 0
                              ? slot.precision.unit / unit * slot.sum.single *
                                    slot.roundings.reach() * scale / std::sqrt(3.0)
                              : 0;
    row[i].typical = std::hypot(slot.roundings.typical * scale, step / std::sqrt(12.0), dumped);
    row[i].lean = slot.roundings.lean * scale;
    row[i].value = before;
  }
  f.statistics.add_row(row);
}

void Comparer::note_noise(Finding& f, const RowRef& ref, std::int64_t key,
                          std::span<const double> bound) {
  for (TraceTable& repeat : repeats_) {
    const RowRef other = repeat.find(ref.slot->info->name, key);
    if (!other.slot || other.slot->width != ref.slot->width) continue;
    f.noise.add_row(ref.row, row_of(*ref.slot, ref.row), row_of(*other.slot, other.row), bound);
  }
}

void Comparer::measure(const Slot* slot, const std::string& tap, std::int64_t key,
                       std::span<const Real> ours) {
  const auto it = base_->base_rows_.find({tap, key});
  if (it == base_->base_rows_.end()) return;
  const Row& base = it->second;
  double& row_max = row_spread_[{tap, key}];
  for (std::int64_t c = 0; c < std::min<std::int64_t>(base.size(), std::ssize(ours)); ++c) {
    const double d = static_cast<double>(std::abs(ours[static_cast<std::size_t>(c)] - base(c)));
    if (!std::isfinite(d)) continue;
    row_max = std::max(row_max, d);
    if (!slot) continue;
    Spread& s = slot_spread_[slot];
    s.max = std::max(s.max, d);
    s.sum_squares += d * d;
    ++s.count;
  }
}

void Comparer::perturb(const Perturbation& p, const Comparer& base) {
  perturbation_ = p;
  base_ = &base;
}

void Comparer::absorb(const Comparer& member) {
  for (const auto& [slot, s] : member.slot_spread_) {
    Finding& f = findings_[slot];
    f.spread_max = std::max(f.spread_max, s.max);
    f.spread_rms = std::max(
        f.spread_rms,
        std::sqrt(s.sum_squares / static_cast<double>(std::max<std::int64_t>(1, s.count))));
  }
  for (const auto& [row, d] : member.row_spread_) {
    double& mine = row_spread_[row];
    mine = std::max(mine, d);
  }
}

double Comparer::row_spread(const std::string& tap, std::int64_t key) const {
  const auto it = row_spread_.find({tap, key});
  return it == row_spread_.end() ? 0 : it->second;
}

void Comparer::watch_expert(const TapMatch& m, std::int64_t position, bool present) {
  const std::string block = fmt::format("{}.{}.", m.mtp ? "mtp" : "layers", m.index);
  int& seen = experts_seen_[block][position];
  if (present) ++seen;
  provenance_.mark_experts(block, position, seen == config_.n_activated_experts);
}

// Live rows: the previous group once there is one, then what the open group holds so far.
void Comparer::on_state(const TapMatch& m, TapEvent& event) {
  const std::string tap(event.name);
  const std::int64_t ratio = config_.ratio(m.block);
  const std::int64_t offset = ModelConfig::overlaps(ratio) ? ratio : 0;
  const auto call = std::find_if(table_.calls().begin(), table_.calls().end(),
                                 [&](const Call& c) { return c.end == call_.end; });
  computed_[tap].push_back(call_.start);
  if (call == table_.calls().end()) return;
  Slot* slot = table_.slot(tap, static_cast<std::size_t>(call - table_.calls().begin()));
  if (!slot || !slot->problem.empty()) return;
  if (slot->info->shape[0] != event.shape[0] || slot->info->shape[1] != event.shape[1]) {
    slot->problem = fmt::format("expected [{}], found shape [{}]", fmt::join(event.shape, ", "),
                                fmt::join(slot->info->shape, ", "));
    return;
  }
  table_.load(*slot);
  const Origin origin = provenance_.derive(tap, call_.end - 1);
  for (std::int64_t r = 0; r < event.shape[0]; ++r) {
    const bool live = r < offset ? call_.end >= ratio : r - offset < call_.end % ratio;
    if (!live) continue;
    const auto ours = event.values.subspan(static_cast<std::size_t>(r * slot->width),
                                           static_cast<std::size_t>(slot->width));
    const auto b = row_of(*slot, r);
    // State rows are kv_proj and score rows (plus the position bias: one addition).
    std::vector<Real> scale(ours.size(), 0);
    if (tap.ends_with("score_state"))
      std::transform(ours.begin(), ours.end(), scale.begin(),
                     [](Real v) { return 2 * std::abs(v); });
    const RowRef ref{slot, r};
    const std::int64_t key = (call_.end - 1) * event.shape[0] + r;  // rows of one call, apart
    if (base_ != nullptr) {
      measure(slot, tap, key, ours);
    } else if (selection_.accepts(tap, slot->call, call_.end - 1)) {
      judge_row(ref, origin, key, {ours, {}, Format::none, false, scale});
    }
    if (mode_ == Mode::local && !origin.single) std::copy(b.begin(), b.end(), ours.begin());
  }
}

}  // namespace dsv4::conformance
