// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/reading.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <omp.h>
#include <optional>
#include <set>
#include <stdexcept>

#include "conformance/bugs/mutants.hpp"
#include "conformance/comparer.hpp"
#include "conformance/findings.hpp"

namespace dsv4::bugs {
namespace {

using conformance::Call;
using conformance::Comparer;
using conformance::TraceTable;

// Enough to guess by which two mistakes a difference comes about; all of it may be gigabytes.
constexpr std::int64_t kMostKept = 1 << 14;
// Of a trace that is held, and of the streams that a history holds.
constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;

std::string leaving(std::int64_t layer) { return fmt::format("layers.{}.hc_ffn.out", layer); }

double coarsest_unit(TraceTable& table) {
  double unit = 0x1p-53;
  for (const conformance::Slot& s : table.slots()) unit = std::max(unit, s.precision.unit);
  return unit;
}

std::int64_t bytes_of(TraceTable& table) {
  std::int64_t bytes = 0;
  for (const conformance::Slot& s : table.slots()) bytes += s.info->size() * 8;
  return bytes;
}

// One element in so many is kept.
std::int64_t stride_of(TraceTable& table, const std::string& tap) {
  std::int64_t size = 0;
  for (const conformance::Slot& s : table.slots())
    if (s.info->name == tap) size += s.info->size();
  return std::max<std::int64_t>(1, (size + kMostKept - 1) / kMostKept);
}

}  // namespace

// Lets the comparer put the trace's rows in place of ours, and notes by how much that moved them.
class Reader::Measure : public TapSink {
 public:
  Measure(Comparer& to, TraceTable& table, Reading& reading, std::string keep)
      : to_(to),
        table_(table),
        reading_(reading),
        keep_(std::move(keep)),
        stride_(stride_of(table, keep_)) {}

  // Notes what enters each block, where there is room for it, and which bugs were passed.
  void note_history(History& history, std::int64_t first_layer, std::int64_t layers, bool streams) {
    history_ = &history;
    passed_.emplace();
    first_layer_ = first_layer;
    layers_ = layers;
    streams_ = streams;
  }

  // What was passed since the last block belongs to the head; before the first call, to the first.
  void end_call() {
    if (history_ == nullptr) return;
    note_passed(calls_ == 0 ? 0 : layers_);
    ++calls_;
  }

  void on_call(std::int64_t start, std::int64_t end) override {
    end_call();
    layer_ = first_layer_;
    start_ = start;
    to_.on_call(start, end);
  }
  bool wants(std::string_view name) const override { return to_.wants(name); }

  void on_value(TapEvent& event) override {
    const std::vector<Real> ours(event.values.begin(), event.values.end());
    const bool alone = other_entries(event);
    to_.on_value(event);
    if (history_ != nullptr && event.name == leaving(layer_)) leave_block(event);
    if (alone) return note_alone({std::string(event.name), call_of()}, ours);
    if (!table_.exposes(std::string(event.name))) return;
    note(event.name, ours, event.values, event.name == keep_);
  }

  // Entries that no stage of this run had anything to compare with: all of them differ.
  void end_run(std::int64_t end) {
    for (conformance::Slot& s : table_.slots()) {
      const Place place{s.info->name, static_cast<int>(s.call)};
      const bool wanted = keep_.empty() || keep_ == s.info->name;
      if (!s.other_entries || !wanted || met_.contains(place)) continue;
      if (table_.calls()[s.call].end > end) continue;
      if (s.info->size() == 0) {
        s.problem.clear();
      } else {
        note_alone(place, {});
      }
    }
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

  // Whether trace and run completed different entries in this call. A mistake may complete the same
  // other ones as the trace: then they can be compared.
  bool other_entries(const TapEvent& event) {
    const Place place{std::string(event.name), call_of()};
    if (place.second < 0) return false;
    conformance::Slot* slot = table_.slot(place.first, static_cast<std::size_t>(place.second));
    if (slot == nullptr || !slot->other_entries) return false;
    met_.insert(place);
    if (slot->info->shape.front() == event.shape.front()) slot->problem.clear();
    return !slot->problem.empty();
  }

  void note_alone(const Place& place, const std::vector<Real>& ours) {
    conformance::Slot& slot = *table_.slot(place.first, static_cast<std::size_t>(place.second));
    table_.load(slot);
    Residual& r = reading_.residuals[place];
    const auto add = [&](double v) {
      if (!std::isfinite(v)) v = 1;
      r.squares += v * v;
      r.worst = std::max(r.worst, std::abs(v));
      ++r.count;
    };
    for (const double v : slot.values) add(v);
    for (const Real v : ours) add(static_cast<double>(v));
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
      if (keep && seen_++ % stride_ == 0) reading_.kept.push_back(d);
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
    if (tap == keep_ && seen_++ % stride_ == 0) reading_.kept.push_back(d);
  }

  void leave_block(const TapEvent& event) {
    note_passed(layer_);
    ++layer_;
    if (!streams_) return;
    Mat& x = history_->entering[{layer_, start_}];
    x.resize(event.shape[0], std::ssize(event.values) / std::max<Index>(1, event.shape[0]));
    std::copy(event.values.begin(), event.values.end(), x.data());
  }

  void note_passed(std::int64_t layer) {
    for (const std::size_t bug : passed_->take()) {
      const auto [at, fresh] = history_->passed.try_emplace(bug, layer);
      at->second = std::min(at->second, layer);
    }
  }

  Comparer& to_;
  TraceTable& table_;
  Reading& reading_;
  std::string keep_;
  std::int64_t stride_ = 1;
  std::set<Place> met_;  // taps of entries that the run came past
  std::int64_t seen_ = 0;
  std::int64_t start_ = 0;
  History* history_ = nullptr;
  std::optional<Passed> passed_;
  bool streams_ = false;
  std::int64_t first_layer_ = 0, layers_ = 0;
  std::int64_t layer_ = 0;  // that is being computed
  std::int64_t calls_ = 0;
};

Reader::Reader(const golden::TraceFile& trace, const Checkpoint& checkpoint, Numerics numerics)
    : trace_(trace),
      checkpoint_(checkpoint),
      numerics_(std::move(numerics)),
      table_(trace, checkpoint.config()) {
  for (const conformance::Slot& s : table_.slots()) problems_.push_back(s.problem);
  in_memory_ = bytes_of(table_) <= kMostBytes;
  if (!in_memory_) return;
  table_.keep_values();
  for (conformance::Slot& s : table_.slots())
    if (s.problem.empty() && !s.keys.empty()) table_.load(s);
}

conformance::RowRef Reader::entering(std::int64_t layer, std::int64_t position) {
  const conformance::RowRef ref = table_.find(leaving(layer - 1), position);
  const ModelConfig& config = checkpoint_.config();
  return ref.slot && ref.slot->width == config.hc_mult * config.dim ? ref : conformance::RowRef{};
}

std::int64_t Reader::first_needed(std::int64_t layer, std::size_t calls) {
  const auto plan = conformance::plan_calls(table_, {});
  if (plan.empty()) return 0;
  const std::int64_t end = plan[(calls == 0 ? plan.size() : std::min(calls, plan.size())) - 1].end;
  for (; layer > 0; --layer) {
    std::int64_t position = 0;
    while (position < end && entering(layer, position).slot != nullptr) ++position;
    if (position == end) break;
  }
  return layer;
}

conformance::Case Reader::request(const Extent& extent) const {
  conformance::Case request;
  request.id = trace_.path().string();
  request.checkpoint = &checkpoint_;
  for (const std::int64_t id : trace_.input_ids())
    request.ids.push_back(static_cast<std::int32_t>(id));
  request.calls = conformance::plan_calls(table_, {});
  if (extent.calls > 0 && extent.calls < request.calls.size()) request.calls.resize(extent.calls);
  request.numerics = numerics_;
  request.first_layer = extent.first_layer;
  request.last_layer = extent.last_layer;
  const bool wanted = extent.only.empty() || extent.only.starts_with("mtp.");
  request.mtp = wanted && extent.last_layer < 0 && checkpoint_.config().n_mtp_layers > 0 &&
                table_.exposes_prefix("mtp.");
  return request;
}

std::function<Mat(const Call&)> Reader::streams(const Extent& extent) {
  const std::int64_t layer = extent.first_layer;
  if (extent.history != nullptr)
    return [&extent, layer](const Call& c) {
      return extent.history->entering.at({layer, c.start});
    };
  return [this, layer](const Call& c) {
    Mat x(c.end - c.start, checkpoint_.config().hc_mult * checkpoint_.config().dim);
    for (auto p = c.start; p < c.end; ++p) {
      const conformance::RowRef ref = entering(layer, p);
      if (ref.slot == nullptr)
        throw std::logic_error("a block was begun whose streams are not shown");
      const double* row = ref.slot->values.data() + ref.row * ref.slot->width;
      x.row(p - c.start) = Eigen::Map<const Eigen::RowVectorXd>(row, x.cols()).cast<Real>();
    }
    return x;
  };
}

Reading Reader::run(conformance::Backend& backend, const Extent& extent, History* history) {
  const ModelConfig& config = checkpoint_.config();
  Reading reading;
  conformance::Case request = this->request(extent);
  const std::int64_t end = request.calls.empty() ? 0 : request.calls.back().end;
  conformance::VerifyOptions options;
  options.last_layer = extent.last_layer;
  if (!extent.only.empty()) options.selection.taps = {extent.only};
  // An earlier run may have found that its own values have another shape than the trace's, or that
  // it completes the same entries.
  for (std::size_t i = 0; i < problems_.size(); ++i) table_.slots()[i].problem = problems_[i];
  Comparer comparer(table_, config, conformance::Mode::local, options.selection,
                    coarsest_unit(table_));
  if (extent.first_layer > 0) {
    request.streams = streams(extent);
    for (std::int64_t p = 0; p < end; ++p)
      if (entering(extent.first_layer, p).slot != nullptr)
        comparer.mark_given(leaving(extent.first_layer - 1), {p, p + 1});
  }
  Measure sink(comparer, table_, reading, extent.only);
  if (history != nullptr) {
    const std::int64_t bytes = config.n_layers * end * config.hc_mult * config.dim * 8;
    sink.note_history(*history, extent.first_layer, config.n_layers, bytes <= kMostBytes);
  }
  try {
    backend.run(request, Tap(sink));
    sink.end_call();
    sink.end_run(end);
  } catch (const std::exception&) {
    reading.crashed = true;
    return reading;
  }
  for (conformance::Result& r : conformance::conclude(table_, config, comparer, options)) {
    if (table_.calls()[static_cast<std::size_t>(r.call)].end <= end)
      reading.results.push_back(std::move(r));
  }
  return reading;
}

Reading Reader::read(conformance::Backend& backend, const Extent& extent) {
  return run(backend, extent, nullptr);
}

Reading Reader::read(conformance::Backend& backend, const Extent& extent, History& history) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  Reading reading = run(backend, extent, &history);
  omp_set_num_threads(threads);
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
