// SPDX-License-Identifier: Apache-2.0
#include "cli/verify.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <list>
#include <memory>

#include "cli/backends.hpp"
#include "cli/kernel_backend.hpp"
#include "cli/named_trace.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "conformance/report.hpp"
#include "conformance/report_html.hpp"
#include "conformance/report_junit.hpp"
#include "conformance/runner.hpp"
#include "core/arithmetic.hpp"
#include "core/error.hpp"
#include "core/file_writer.hpp"

namespace dsv4::cli {
namespace {

struct Options {
  std::vector<std::string> traces;  // the one to judge, then repeats of its run
  std::string model, mode = "local", rounding, arith, backend = "reference", layers, rows, chunks,
                     junit, html, names;
  std::vector<std::string> taps, require;
  std::int64_t call = -1;
  bool json = false, quiet = false, every_call = false;
};

conformance::VerifyOptions verify_options(const Options& o, const ModelConfig& config) {
  conformance::VerifyOptions v;
  v.mode = o.mode == "local" ? conformance::Mode::local : conformance::Mode::chained;
  v.selection.taps = o.taps;
  v.selection.call = o.call;
  v.require = o.require;
  if (!o.rows.empty()) {
    const Range r = parse_range(o.rows, "--rows");
    v.selection.first_row = r.first;
    v.selection.last_row = r.last;
  }
  if (!o.chunks.empty()) v.chunks = parse_list(o.chunks, "--chunks");
  if (!o.layers.empty()) {
    const Range r = parse_range(o.layers, "--layers");
    if (r.last >= config.n_layers) {
      throw UsageError(
          fmt::format("--layers {}: the model has layers 0-{}", o.layers, config.n_layers - 1));
    }
    v.first_layer = r.first;
    v.last_layer = r.last == config.n_layers - 1 ? -1 : r.last;
  }
  return v;
}

// What the port declares that it does on purpose: the option, else the trace's attribute.
std::shared_ptr<const Arithmetic> declared_arithmetic(const Options& o, const std::string& rounding,
                                                      const std::string& of_trace) {
  const auto bundled = bundled_arithmetics();
  const bool known = std::find(bundled.begin(), bundled.end(), of_trace) != bundled.end();
  const std::string name = !o.arith.empty() ? o.arith : known ? of_trace : std::string{};
  if (name.empty()) return nullptr;
  const auto arithmetic = std::make_shared<Arithmetic>(load_arithmetic(name));
  if (rounding != "official" && !arithmetic->sites.empty()) {
    if (o.arith.empty()) return nullptr;
    throw UsageError(
        fmt::format("--arith {}: {} is a trace in exact numerics", name, o.traces.front()),
        "a declared arithmetic says what happens at the rounding sites of official numerics");
  }
  return arithmetic;
}

int run(const Options& o) {
  const NamedTrace named(o.traces.front(), o.names);
  const golden::TraceFile& trace = named.file();
  std::list<NamedTrace> named_repeats;
  std::vector<golden::TraceFile> repeats;
  for (auto path = o.traces.begin() + 1; path != o.traces.end(); ++path)
    repeats.push_back(named_repeats.emplace_back(*path, o.names).take());
  const std::string declared =
      trace.attributes().rounding.empty() ? "exact" : trace.attributes().rounding;
  if (!o.rounding.empty() && o.rounding != declared) {
    throw UsageError(fmt::format("--rounding {}: {} declares rounding \"{}\"", o.rounding,
                                 o.traces.front(), declared),
                     "leave --rounding out to use what the trace declares");
  }
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  for (const auto& w : checkpoint.warnings()) say(o.quiet, "warning: {}", w);
  auto options = verify_options(o, checkpoint.config());
  options.arithmetic = declared_arithmetic(o, declared, trace.attributes().arith);
  const auto backend = make_backend(o.backend);
  Progress progress("verify", 100, "%", o.quiet);
  options.progress = [&](double fraction) { progress.update(100 * fraction); };
  options.not_exposed = named.not_exposed();
  conformance::Report report = conformance::verify(trace, checkpoint, *backend, options, repeats);
  report.trace = o.traces.front();
  report.repeats.assign(o.traces.begin() + 1, o.traces.end());
  report.names = o.names;
  progress.finish();
  for (const auto& note : report.notes) say(o.quiet, "note: {}", note);
  const auto* kernels = dynamic_cast<const KernelBackend*>(backend.get());
  if (o.json) {
    auto json = conformance::to_json(report);
    if (kernels) json["kernels"] = kernel_json(*kernels);
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}",
               conformance::to_text(report, checkpoint.config(), {use_color(), o.every_call}));
    if (kernels) fmt::print("{}", kernel_text(*kernels));
  }
  if (!o.junit.empty())
    write_text_file(o.junit, conformance::to_junit(report, checkpoint.config()));
  if (!o.html.empty()) write_text_file(o.html, conformance::to_html(report, checkpoint.config()));
  if (kernels && report.exit_code() == 0) return kernel_exit_code(kernels->results());
  if (report.exit_code() == kNothingCompared) fmt::print(stderr, "dsv4: nothing was compared\n");
  return report.exit_code();
}

}  // namespace

void add_verify(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* c =
      app.add_subcommand("verify", "Compare a trace with the float64 reference, stage by stage");
  c->add_option(
       "traces", o->traces,
       "Trace file (HDF5, schema trace/1); after it, repeats of the same run: their distance "
       "to it is the port's own noise")
      ->required();
  c->add_option("--model", o->model, "Checkpoint directory in the official layout")->required();
  c->add_option("--mode", o->mode,
                "local: every stage from the trace's own inputs; chained: from the token ids")
      ->check(CLI::IsMember({"local", "chained"}))
      ->capture_default_str();
  c->add_option("--names", o->names,
                "Table of the port's own names: theirs, ours, transform (docs/diagnose.md)");
  c->add_option("--rounding", o->rounding, "exact or official (default: what the trace declares)");
  c->add_option("--arith", o->arith,
                "What the port does on purpose at the rounding sites: a bundled name (fp8-indexer, "
                "w4a16-experts, bf16-kv, fp32, tensor-core, fp8-promoted, official) or a JSON "
                "file");
  c->add_option(
       "--backend", o->backend,
       "reference; or beside the trace the CUDA kernels: emulated, on an emulated GPU; cuda, on "
       "the first GPU")
      ->capture_default_str();
  c->add_option("--taps", o->taps, "Judge only taps that match this glob; * crosses dots; repeats")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--layers", o->layers, "Layers a-b; starts at the trace's layers.(a-1).hc_ffn.out");
  c->add_option("--call", o->call, "Judge only this call of the trace")
      ->check(CLI::NonNegativeNumber);
  c->add_option("--rows", o->rows, "Judge only these absolute positions: a-b");
  c->add_option("--chunks", o->chunks,
                "Run the reference in calls of these lengths instead of the trace's own");
  c->add_option("--require", o->require, "Taps that match this glob must be in the trace; repeats")
      ->take_all()
      ->allow_extra_args(false);
  c->add_flag("--every-call", o->every_call, "One line per call instead of one per stage");
  c->add_flag("--json", o->json, "Print the report as JSON");
  c->add_option("--junit", o->junit, "Write the report as JUnit XML to this file too");
  c->add_option("--html", o->html, "Write it as one HTML page too: a heat map, layers by stages");
  c->add_flag("-q,--quiet", o->quiet, "No progress, no notes");
  c->footer(
      "Exit code: 0 all compared passed, 1 a difference, 2 bad input, 3 nothing was compared.\n"
      "Example:\n  dsv4 verify trace.h5 --model golden/models/tiny --mode local");
  c->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
