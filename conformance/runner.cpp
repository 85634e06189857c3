// SPDX-License-Identifier: Apache-2.0
#include "conformance/runner.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>

#include "conformance/findings.hpp"
#include "conformance/same_model.hpp"
#include "core/arithmetic.hpp"
#include "core/error.hpp"

namespace dsv4::conformance {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::int32_t> ids_of(const golden::TraceFile& trace, const ModelConfig& config) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : trace.input_ids()) {
    if (id < 0 || id >= config.vocab_size) {
      throw TraceError(fmt::format("{}: inputs/input_ids[{}] = {}, expected 0 … {}",
                                   trace.path().string(), ids.size(), id, config.vocab_size - 1),
                       "is this a trace of another model?");
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

// X entering `layer`, read from the trace; every row must be there.
std::function<Mat(const Call&)> streams_from(TraceTable& table, const ModelConfig& config,
                                             std::int64_t layer) {
  const std::string tap = fmt::format("layers.{}.hc_ffn.out", layer - 1);
  return [&table, &config, tap](const Call& call) {
    Mat x(call.end - call.start, config.hc_mult * config.dim);
    for (auto p = call.start; p < call.end; ++p) {
      const RowRef ref = table.find(tap, p);
      if (!ref.slot || ref.slot->width != x.cols()) {
        throw UsageError(
            fmt::format("--layers needs {} at every position; position {} is not in the trace", tap,
                        p),
            "start at layer 0, or dump that tap whole");
      }
      const double* row = ref.slot->values.data() + ref.row * ref.slot->width;
      x.row(p - call.start) = Eigen::Map<const Eigen::RowVectorXd>(row, x.cols()).cast<Real>();
    }
    return x;
  };
}

// The sites at which a port does not do what the official code does, and says so.
std::vector<std::string> declared_deviations(const Arithmetic& arithmetic) {
  std::vector<std::string> out;
  for (const RoundingSite& site : rounding_sites()) {
    const Format format = arithmetic.at(site.name, site.format);
    if (format == site.format) continue;
    out.push_back(fmt::format("{}: {} instead of {}", site.name, name(format), name(site.format)));
  }
  if (arithmetic.products != Products::fp32)
    out.push_back(fmt::format("products: {}", name(arithmetic.products)));
  return out;
}

double coarsest_unit(TraceTable& table) {
  double unit = 0x1p-53;
  for (const Slot& s : table.slots()) unit = std::max(unit, s.precision.unit);
  return unit;
}

// Of the sums inside stages, for roundings that no tap shows.
double coarsest_sums(TraceTable& table) {
  double unit = 0x1p-53;
  for (const Slot& s : table.slots()) unit = std::max(unit, s.precision.sums);
  return unit;
}

// Repeats must be runs of the same model on the same ids; how they were split into calls is free.
std::vector<TraceTable> tables_of_repeats(std::span<const golden::TraceFile> repeats,
                                          const golden::TraceFile& judged,
                                          const Checkpoint& checkpoint, Report& report) {
  std::vector<TraceTable> tables;
  for (const golden::TraceFile& repeat : repeats) {
    require_same_model(repeat, checkpoint, report.notes);
    const std::size_t n = std::min(repeat.input_ids().size(), judged.input_ids().size());
    if (!std::equal(repeat.input_ids().begin(),
                    repeat.input_ids().begin() + static_cast<std::ptrdiff_t>(n),
                    judged.input_ids().begin())) {
      throw TraceError(fmt::format("{}: other token ids than {}", repeat.path().string(),
                                   judged.path().string()),
                       "a repeat is a further trace of the same run");
    }
    if (repeat.attributes().rounding != judged.attributes().rounding) {
      throw TraceError(fmt::format("{}: rounding \"{}\", expected \"{}\" as in {}",
                                   repeat.path().string(), repeat.attributes().rounding,
                                   judged.attributes().rounding, judged.path().string()),
                       "a repeat is a further trace of the same run");
    }
    report.repeats.push_back(repeat.path().string());
    tables.emplace_back(repeat, checkpoint.config());
  }
  return tables;
}

// Reports progress per call and counts the work of the ensemble as the same again, each.
class Meter {
 public:
  Meter(const VerifyOptions& options, double total) : options_(options), total_(total) {}
  void add(double work) {
    done_ += work;
    if (options_.progress) options_.progress(std::min(1.0, done_ / total_));
  }
  void extend(double total) { total_ += total; }

 private:
  const VerifyOptions& options_;
  double total_;
  double done_ = 0;
};

// Passes everything on and tells the meter when a call begins.
class Metered : public TapSink {
 public:
  Metered(Comparer& to, Meter& meter) : to_(to), meter_(meter) {}
  void on_call(std::int64_t start, std::int64_t end) override {
    meter_.add(static_cast<double>(end - start));
    to_.on_call(start, end);
  }
  void on_value(TapEvent& e) override { to_.on_value(e); }
  void on_index(IndexEvent& e) override { to_.on_index(e); }
  bool wants(std::string_view name) const override { return to_.wants(name); }

 private:
  Comparer& to_;
  Meter& meter_;
};

void run_once(Backend& backend, const Case& request, Comparer& comparer, Meter& meter,
              std::int64_t first_layer) {
  if (first_layer > 0) {
    for (const Call& call : request.calls) {
      comparer.mark_given(fmt::format("layers.{}.hc_ffn.out", first_layer - 1), call);
    }
  }
  Metered sink(comparer, meter);
  backend.run(request, Tap(sink));
}

}  // namespace

Report verify(const golden::TraceFile& trace, const Checkpoint& checkpoint, Backend& backend,
              const VerifyOptions& options, std::span<const golden::TraceFile> repeats) {
  const ModelConfig& config = checkpoint.config();
  Report report;
  report.mode = options.mode == Mode::local ? "local" : "chained";
  report.trace = trace.path().string();
  report.model = checkpoint.path().string();
  report.backend = backend.name();
  report.rounding = trace.attributes().rounding.empty() ? "exact" : trace.attributes().rounding;
  require_same_model(trace, checkpoint, report.notes);

  const Products products = options.arithmetic ? options.arithmetic->products : Products::fp32;
  TraceTable table(trace, config, products);
  Case request;
  request.id = report.trace;
  request.checkpoint = &checkpoint;
  request.ids = ids_of(trace, config);
  request.calls = plan_calls(table, options.chunks);
  request.numerics.rounding = parse_rounding(report.rounding, report.trace);
  request.numerics.arithmetic = options.arithmetic;
  if (options.arithmetic) report.declared = declared_deviations(*options.arithmetic);
  request.mtp = config.n_mtp_layers > 0 && table.exposes_prefix("mtp.");
  request.first_layer = options.first_layer;
  request.last_layer = options.last_layer;
  if (options.first_layer > 0) request.streams = streams_from(table, config, options.first_layer);
  if (request.calls.empty()) report.notes.emplace_back("the trace has no calls");
  if (const Support s = backend.supports(request); !s.yes) {
    throw UsageError(fmt::format("backend {}: {}", backend.name(), s.reason),
                     "give it another trace, or judge this one with --backend reference");
  }

  const double tokens = request.calls.empty() ? 0 : static_cast<double>(request.calls.back().end);
  Meter meter(options, tokens);
  const auto begin = Clock::now();
  const double unit = coarsest_unit(table);
  std::vector<TraceTable> others = tables_of_repeats(repeats, trace, checkpoint, report);
  Comparer judge(table, config, options.mode, options.selection, unit);
  judge.compare_repeats(others);
  run_once(backend, request, judge, meter, options.first_layer);
  if (judge.needs_ensemble()) {
    meter.extend(tokens * options.ensemble);
    for (int member = 1; member <= options.ensemble; ++member) {
      Comparer shaken(table, config, options.mode, options.selection, unit);
      request.numerics.perturbation = {static_cast<std::uint64_t>(member), coarsest_sums(table)};
      shaken.perturb(request.numerics.perturbation, judge);
      run_once(backend, request, shaken, meter, options.first_layer);
      judge.absorb(shaken);
    }
  }
  const double total = std::chrono::duration<double>(Clock::now() - begin).count();
  report.results = conclude(table, config, judge, options);
  report.seconds_read = table.seconds_read;
  report.seconds_compare = judge.seconds;
  report.seconds_compute = std::max(0.0, total - judge.seconds);
  report.bytes_compared = judge.bytes;
  return report;
}

}  // namespace dsv4::conformance
