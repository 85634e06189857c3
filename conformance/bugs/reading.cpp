// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/reading.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "conformance/comparer.hpp"
#include "conformance/findings.hpp"
#include "conformance/trace_table.hpp"

namespace dsv4::bugs {
namespace {

using conformance::Comparer;
using conformance::TraceTable;

// Lets the comparer put the trace's rows in place of ours, and notes by how much that moved them.
class Measure : public TapSink {
 public:
  Measure(Comparer& to, TraceTable& table, Reading& reading, std::string keep)
      : to_(to), table_(table), reading_(reading), keep_(std::move(keep)) {}

  void on_call(std::int64_t start, std::int64_t end) override {
    start_ = start;
    to_.on_call(start, end);
  }
  bool wants(std::string_view name) const override { return to_.wants(name); }

  void on_value(TapEvent& event) override {
    const std::vector<Real> ours(event.values.begin(), event.values.end());
    to_.on_value(event);
    if (!table_.exposes(std::string(event.name))) return;
    note(event.name, ours, event.values, event.name == keep_);
  }

  // Sets: each entry that only one side has counts as an error of one.
  void on_index(IndexEvent& event) override {
    const std::string tap(event.name);
    if (table_.exposes(tap) && event.shape.size() == 2) {
      const std::int64_t width = event.shape[1];
      for (std::int64_t i = 0; i < event.shape[0]; ++i) {
        const conformance::RowRef ref = table_.find(tap, start_ + i);
        if (ref.slot) note_choice(tap, event.values.subspan(i * width, width), ref);
      }
    }
    to_.on_index(event);
  }

 private:
  int call_of() const {
    const auto& calls = table_.calls();
    for (std::size_t c = 0; c < calls.size(); ++c)
      if (calls[c].start <= start_ && start_ < calls[c].end) return static_cast<int>(c);
    return -1;
  }

  void note(std::string_view name, const std::vector<Real>& ours, std::span<const Real> theirs,
            bool keep) {
    Residual& r = reading_.residuals[{std::string(name), call_of()}];
    double largest = 0;
    for (const Real v : theirs)
      if (std::isfinite(v)) largest = std::max(largest, static_cast<double>(std::abs(v)));
    for (std::size_t i = 0; i < ours.size(); ++i) {
      auto d = static_cast<double>(theirs[i] - ours[i]);
      const bool same = theirs[i] == ours[i] || (std::isnan(theirs[i]) && std::isnan(ours[i]));
      if (same) d = 0;
      if (!std::isfinite(d)) d = std::max(largest, 1.0);
      r.squares += d * d;
      r.worst = std::max(r.worst, std::abs(d));
      if (keep) reading_.kept.push_back(d);
    }
    r.count += std::ssize(ours);
  }

  void note_choice(const std::string& tap, std::span<const std::int32_t> ours,
                   const conformance::RowRef& ref) {
    const auto first = ref.slot->integers.begin() + ref.row * ref.slot->width;
    std::set<std::int64_t> theirs(first, first + ref.slot->width);
    std::set<std::int64_t> mine(ours.begin(), ours.end());
    theirs.erase(-1);
    mine.erase(-1);
    std::vector<std::int64_t> apart;
    std::set_symmetric_difference(mine.begin(), mine.end(), theirs.begin(), theirs.end(),
                                  std::back_inserter(apart));
    Residual& r = reading_.residuals[{tap, static_cast<int>(ref.slot->call)}];
    const auto d = static_cast<double>(apart.size());
    r.squares += d;
    r.worst = std::max(r.worst, d);
    r.count += std::ssize(ours);
    if (tap == keep_) reading_.kept.push_back(d);
  }

  Comparer& to_;
  TraceTable& table_;
  Reading& reading_;
  std::string keep_;
  std::int64_t start_ = 0;
};

conformance::Case request_of(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                             const TraceTable& table, const Numerics& numerics,
                             const Extent& extent) {
  conformance::Case request;
  request.id = trace.path().string();
  request.checkpoint = &checkpoint;
  for (const std::int64_t id : trace.input_ids())
    request.ids.push_back(static_cast<std::int32_t>(id));
  request.calls = conformance::plan_calls(table, {});
  if (extent.calls > 0 && extent.calls < request.calls.size()) request.calls.resize(extent.calls);
  request.numerics = numerics;
  request.last_layer = extent.last_layer;
  request.mtp =
      extent.last_layer < 0 && checkpoint.config().n_mtp_layers > 0 && table.exposes_prefix("mtp.");
  return request;
}

double coarsest_unit(TraceTable& table) {
  double unit = 0x1p-53;
  for (const conformance::Slot& s : table.slots()) unit = std::max(unit, s.precision.unit);
  return unit;
}

}  // namespace

Reading read(const golden::TraceFile& trace, const Checkpoint& checkpoint,
             conformance::Backend& backend, const Numerics& numerics, const Extent& extent) {
  const ModelConfig& config = checkpoint.config();
  Reading reading;
  TraceTable table(trace, config);
  const conformance::Case request = request_of(trace, checkpoint, table, numerics, extent);
  conformance::VerifyOptions options;
  options.last_layer = extent.last_layer;
  if (!extent.only.empty()) options.selection.taps = {extent.only};
  Comparer comparer(table, config, conformance::Mode::local, options.selection,
                    coarsest_unit(table));
  Measure sink(comparer, table, reading, extent.only);
  try {
    backend.run(request, Tap(sink));
  } catch (const std::exception&) {
    reading.crashed = true;
    return reading;
  }
  const std::int64_t end = request.calls.empty() ? 0 : request.calls.back().end;
  for (conformance::Result& r : conformance::conclude(table, config, comparer, options)) {
    if (table.calls()[static_cast<std::size_t>(r.call)].end <= end)
      reading.results.push_back(std::move(r));
  }
  return reading;
}

const conformance::Result* first_failed(const std::vector<conformance::Result>& results) {
  conformance::Report report;
  report.results = results;
  const conformance::Result* first = report.first_difference();
  if (first == nullptr) return nullptr;
  return &results[static_cast<std::size_t>(first - report.results.data())];
}

}  // namespace dsv4::bugs
