// SPDX-License-Identifier: Apache-2.0
#include "conformance/trace_table.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <numeric>

#include "core/error.hpp"

namespace dsv4::conformance {
namespace {

std::optional<TapMatch> known(const std::string& tap, const ModelConfig& config) {
  return find_tap(tap, static_cast<int>(config.n_layers));
}

bool rows_are_positions(const TapInfo& info) { return !info.axes.empty() && info.axes[0] == "s"; }

}  // namespace

TraceTable::TraceTable(const golden::TraceFile& file, const ModelConfig& config, Products products)
    : file_(file), config_(config), products_(products) {
  infer_calls();
  for (std::size_t c = 0; c < file.calls().size(); ++c) {
    for (const golden::DatasetInfo& d : file.calls()[c].datasets) {
      Slot slot;
      slot.call = c;
      slot.info = &d;
      slots_.push_back(std::move(slot));
      by_tap_[d.name].push_back(slots_.size() - 1);
    }
  }
  for (Slot& slot : slots_) {
    number_rows(slot);
    if (!slot.keys.empty()) slot.first_key = slot.keys.front();
  }
}

// How many tokens a call has where that is not written down: a dataset of all rows tells, else the
// ids do.
std::int64_t TraceTable::call_length(std::size_t call, std::int64_t limit) const {
  std::map<std::int64_t, int> votes;
  std::int64_t at_least = 1;
  for (const golden::DatasetInfo& d : file_.calls()[call].datasets) {
    const auto m = known(d.name, config_);
    if (!m || m->mtp || !rows_are_positions(*m->info) || d.shape.empty()) continue;
    if (d.rows) {
      if (!d.rows->empty()) at_least = std::max(at_least, d.rows->back() + 1);
    } else {
      ++votes[d.shape[0]];
    }
  }
  if (votes.empty()) return std::max(at_least, limit);
  const auto most = std::max_element(votes.begin(), votes.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return std::max(at_least, most->first);
}

void TraceTable::infer_calls() {
  const auto& calls = file_.calls();
  const std::int64_t ids = std::ssize(file_.input_ids());
  for (std::size_t c = 0; c < calls.size(); ++c) {
    const std::int64_t start = calls[c].start_pos;
    std::int64_t end = 0;
    if (calls[c].n_tokens) {
      end = start + *calls[c].n_tokens;
    } else if (!calls[c].positions.empty()) {
      end = calls[c].positions.back() + 1;
    } else if (c + 1 < calls.size() && calls[c + 1].start_pos > start) {
      end =
          std::min(start + call_length(c, calls[c + 1].start_pos - start), calls[c + 1].start_pos);
    } else {
      const bool mtp = std::any_of(calls[c].datasets.begin(), calls[c].datasets.end(),
                                   [](const auto& d) { return d.name.starts_with("mtp."); });
      end = start + call_length(c, std::max<std::int64_t>(1, ids - start - (mtp ? 1 : 0)));
    }
    if (start < 0 || end > ids) {
      throw TraceError(
          fmt::format("{}: call {} covers positions {} … {}, inputs/input_ids has {} ids",
                      file_.path().string(), calls[c].name, start, end - 1, ids),
          "write every token id of the sequence, from position 0");
    }
    calls_.push_back({start, end});
  }
}

void TraceTable::number_rows(Slot& slot) {
  const golden::DatasetInfo& d = *slot.info;
  const auto m = known(d.name, config_);
  if (!m) return;
  const bool official = file_.attributes().rounding == "official";
  slot.precision =
      precision_of(d, official ? std::string_view(m->info->dtype) : std::string_view{});
  slot.sum = sum_behind(*m, config_);
  slot.roundings = rounding_model(slot.sum, products_, slot.precision.sums);
  slot.precision.sums = slot.roundings.unit;
  const Call& call = calls_[slot.call];
  const auto& axes = m->info->axes;
  if (axes.empty()) return;  // a code beside a tap that is not quantised
  if (d.shape.size() != axes.size()) {
    slot.problem = fmt::format("expected axes [{}], found shape [{}]", fmt::join(axes, ", "),
                               fmt::join(d.shape, ", "));
    return;
  }
  slot.choice = m->info->dtype == "int";
  if ((slot.choice || m->info->dtype == "uint8") != d.integer) {
    slot.problem = fmt::format("expected {}, found {}", d.integer ? "floating point" : "integers",
                               d.integer ? "integers" : "floating point");
    return;
  }
  slot.width = std::accumulate(d.shape.begin() + (axes[0] == "v" ? 0 : 1), d.shape.end(),
                               std::int64_t{1}, std::multiplies<>());
  if (axes[0] == "v") {
    slot.keys = {call.end - 1};
    return;
  }
  const std::int64_t ratio = m->block >= 0 ? std::max<std::int64_t>(1, config_.ratio(m->block)) : 1;
  const bool entries = axes[0] == "e";
  const std::int64_t base = entries ? call.start / ratio : axes[0] == "s" ? call.start : 0;
  slot.first_key = base;
  slot.expected_rows = entries          ? call.end / ratio - base
                       : axes[0] == "s" ? call.end - call.start
                                        : -1;
  const auto& positions = file_.calls()[slot.call].positions;
  const std::int64_t rows = d.shape[0];
  if (axes[0] == "y") return number_expert_rows(slot);
  const bool short_mtp = m->mtp && !d.rows && rows == slot.expected_rows - 1;
  if (axes[0] == "s" && !positions.empty() && !d.rows) {
    slot.expected_rows = std::ssize(positions);
    slot.keys = positions;
  } else if (d.rows) {
    slot.expected_rows = std::ssize(*d.rows);
    for (const auto r : *d.rows)
      slot.keys.push_back(axes[0] == "s" && !positions.empty()
                              ? positions.at(static_cast<std::size_t>(r))
                              : base + r);
  } else {
    for (std::int64_t r = 0; r < rows; ++r) slot.keys.push_back(base + r);
  }
  if (slot.expected_rows >= 0 && rows != slot.expected_rows && !short_mtp) {
    slot.problem =
        fmt::format("expected {} rows for positions {} … {}, found shape [{}]", slot.expected_rows,
                    call.start, call.end - 1, fmt::join(d.shape, ", "));
    slot.other_entries = entries && !d.rows;
  }
}

// Rows of an expert belong to the tokens that its dataset `rows` lists.
void TraceTable::number_expert_rows(Slot& slot) {
  const std::string& name = slot.info->name;
  const golden::DatasetInfo* rows =
      file_.find(slot.call, name.substr(0, name.rfind('.')) + ".rows");
  if (!rows || !rows->integer || rows->shape.size() != 1 || rows->shape[0] != slot.info->shape[0]) {
    slot.problem = fmt::format(
        "expected as many rows as the dataset `rows` of the same expert lists, found shape [{}]",
        fmt::join(slot.info->shape, ", "));
    return;
  }
  for (const std::int64_t r : file_.read_integers(slot.call, *rows))
    slot.keys.push_back(calls_[slot.call].start + r);
  if (!std::is_sorted(slot.keys.begin(), slot.keys.end()))
    slot.problem = "expected ascending token rows";
}

bool TraceTable::exposes_prefix(const std::string& prefix) const {
  const auto it = by_tap_.lower_bound(prefix);
  return it != by_tap_.end() && it->first.starts_with(prefix);
}

Slot* TraceTable::slot(const std::string& tap, std::size_t call) {
  const auto it = by_tap_.find(tap);
  if (it == by_tap_.end()) return nullptr;
  for (const std::size_t i : it->second) {
    if (slots_[i].call == call) return &slots_[i];
  }
  return nullptr;
}

RowRef TraceTable::find(const std::string& tap, std::int64_t key) {
  const auto it = by_tap_.find(tap);
  if (it == by_tap_.end()) return {};
  // Slots are in call order and keys ascend, so the last slot that starts at or before the key is
  // the one.
  const auto after = std::partition_point(it->second.begin(), it->second.end(), [&](std::size_t i) {
    const Slot& s = slots_[i];
    return s.first_key <= key;
  });
  for (auto i = after; i != it->second.begin();) {
    Slot& s = slots_[*--i];
    if (s.keys.empty()) continue;
    const auto row = std::lower_bound(s.keys.begin(), s.keys.end(), key);
    if (row == s.keys.end() || *row != key || !s.problem.empty()) return {};
    load(s);
    return {&s, row - s.keys.begin()};
  }
  return {};
}

void TraceTable::load(Slot& s) {
  if (s.loaded) return;
  const auto begin = std::chrono::steady_clock::now();
  if (s.choice) {
    s.integers = file_.read_integers(s.call, *s.info);
  } else {
    if (s.info->integer) {
      const auto codes = file_.read_integers(s.call, *s.info);
      s.values.assign(codes.begin(), codes.end());
    } else {
      s.values = file_.read(s.call, *s.info);
    }
    for (const double v : s.values) {
      if (std::isfinite(v)) s.magnitude = std::max(s.magnitude, std::abs(v));
    }
  }
  s.loaded = true;
  seconds_read += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void TraceTable::release_before(std::int64_t position) {
  if (keeps_) return;
  for (Slot& s : slots_) {
    if (!s.loaded || calls_[s.call].end > position) continue;
    s.loaded = false;
    s.values = {};
    s.integers = {};
  }
}

std::vector<Call> plan_calls(const TraceTable& table, const std::vector<std::int64_t>& chunks) {
  std::vector<Call> plan;
  std::int64_t at = 0;
  if (chunks.empty()) {
    for (const Call& call : table.calls()) {
      if (call.start < at) {
        throw TraceError(
            fmt::format("a call starts at position {}, before the end of the one before it ({})",
                        call.start, at),
            "a trace file holds one sequence; write a second prompt to a second file");
      }
      if (call.start > at) plan.push_back({at, call.start});
      plan.push_back(call);
      at = call.end;
    }
    return plan;
  }
  const std::int64_t total = table.calls().empty() ? 0 : table.calls().back().end;
  for (const std::int64_t chunk : chunks) {
    plan.push_back({at, at + chunk});
    // The trace's logits belong to the ends of its own calls.
    for (const Call& call : table.calls()) {
      if (call.end > at && call.end <= at + chunk) plan.back().logits_at.push_back(call.end - 1);
    }
    if (plan.back().logits_at.empty()) plan.back().logits_at = {at + chunk - 1};
    at += chunk;
  }
  if (at != total) {
    throw UsageError(fmt::format("--chunks add up to {} tokens, the trace has {}", at, total));
  }
  return plan;
}

}  // namespace dsv4::conformance
