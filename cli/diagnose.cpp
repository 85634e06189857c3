// SPDX-License-Identifier: Apache-2.0
#include "cli/diagnose.hpp"

#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/backends.hpp"
#include "cli/named_trace.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "conformance/bugs/diagnose.hpp"
#include "conformance/report.hpp"
#include "core/arithmetic.hpp"
#include "core/error.hpp"

namespace dsv4::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string trace, model, arith, names;
  double seconds = 30;
  bool json = false, quiet = false;
};

const bugs::Bug& bug(const std::string& id) { return bugs::catalogue()[bugs::number_of(id)]; }

std::string url(const std::string& link) { return "https://github.com/" + link; }

ordered_json to_json(const bugs::Explanation& e) {
  ordered_json ids = ordered_json::array(), parts = ordered_json::array();
  for (const bugs::Part& p : e.parts) {
    ordered_json known = ordered_json::array();
    for (const std::string& id : p.ids) {
      ids.push_back(id);
      const bugs::Bug& b = bug(id);
      ordered_json links = ordered_json::array();
      for (const auto& link : b.links) links.push_back(url(link));
      known.push_back(
          {{"id", id}, {"title", b.title}, {"cause", b.cause}, {"fix", b.fix}, {"links", links}});
    }
    parts.push_back({{"tap", p.tap}, {"bugs", known}});
  }
  ordered_json j{{"ids", ids},
                 {"explained", e.explained},
                 {"explained_at_first", e.explained_at_first},
                 {"parts", parts}};
  j["remaining_difference"] =
      e.remaining.empty() ? ordered_json(nullptr) : ordered_json(e.remaining);
  return j;
}

ordered_json to_json(const bugs::Diagnosis& d) {
  const ordered_json report = conformance::to_json(d.report);
  ordered_json candidates = ordered_json::array();
  for (const auto& e : d.candidates) candidates.push_back(to_json(e));
  return {{"schema_version", 1},
          {"trace", d.report.trace},
          {"model", d.report.model},
          {"rounding", d.report.rounding},
          {"first_difference", report.at("first_difference")},
          {"candidates", candidates},
          {"nearest", d.nearest ? to_json(*d.nearest) : ordered_json(nullptr)},
          {"notes", d.notes},
          {"complete", d.complete()},
          {"untried", d.untried},
          {"runs", d.runs}};
}

void print(const bugs::Part& part) {
  for (const std::string& id : part.ids) {
    const bugs::Bug& b = bug(id);
    fmt::print("  {}  {}\n", b.id, b.title);
    if (!b.cause.empty()) fmt::print("      cause  {}\n", b.cause);
    if (!b.fix.empty()) fmt::print("      fix    {}\n", b.fix);
    for (const auto& link : b.links) fmt::print("      see    {}\n", url(link));
  }
}

void print(const bugs::Explanation& e) {
  for (std::size_t i = 0; i < e.parts.size(); ++i) {
    const bugs::Part& p = e.parts[i];
    fmt::print("\n{}{}, seen at {}:\n", i > 0 ? "together with " : "",
               p.ids.size() > 1 ? "one of these mistakes, which give equal numbers here"
                                : "this known mistake gives these numbers",
               p.tap);
    print(p);
  }
  if (e.remaining.empty()) {
    fmt::print("  explains {:.6f} of the difference\n", e.explained);
    return;
  }
  fmt::print("  explains {:.6f} of the first difference, {:.6f} of all\n", e.explained_at_first,
             e.explained);
  fmt::print("  what is left begins at {} and is explained by none of the known mistakes\n",
             e.remaining);
}

void print_nearest(const bugs::Explanation& e) {
  fmt::print("; nearest is {}, which explains {:.4f} of the first difference",
             fmt::join(e.parts.front().ids, ", "), e.explained_at_first);
  if (std::isfinite(e.explained)) fmt::print(" and {:.4f} of all", e.explained);
}

void print_untried(const bugs::Diagnosis& d, double seconds) {
  fmt::print(
      "\nnot all known mistakes were tried: the time of {:g} s was over with {} run{} due; use "
      "--seconds N\n",
      seconds, d.untried, d.untried == 1 ? "" : "s");
}

void print(const bugs::Diagnosis& d) {
  const conformance::Result* first = d.report.first_difference();
  if (first == nullptr) {
    fmt::print("{}: no difference from the reference; nothing to explain\n", d.report.trace);
    return;
  }
  fmt::print("{}: first difference at {}, position {}", d.report.trace, first->tap,
             first->position);
  if (first->reason.empty()) {
    fmt::print(": error {:.2e}, bound {:.2e} (reference {:.6g}, trace {:.6g})\n", first->error,
               first->bound, first->ours, first->theirs);
  } else {
    fmt::print(": {}\n", first->reason);
  }
  for (const auto& e : d.candidates) print(e);
  if (!d.candidates.empty()) return;
  fmt::print("\nnone of the known mistakes{} gives these numbers",
             d.complete() ? "" : " that were tried");
  if (d.nearest) print_nearest(*d.nearest);
  fmt::print("\n");
}

int run(const Options& o) {
  const NamedTrace named(o.trace, o.names);
  const golden::TraceFile& trace = named.file();
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  bugs::DiagnoseOptions options;
  options.seconds = o.seconds;
  if (!o.arith.empty()) options.arithmetic = std::make_shared<Arithmetic>(load_arithmetic(o.arith));
  Progress progress("diagnose", 100, "%", o.quiet);
  options.progress = [&](double fraction) { progress.update(100 * fraction); };
  const auto reference = make_backend("reference");
  bugs::Diagnosis d = bugs::diagnose(trace, checkpoint, *reference, options);
  d.report.trace = o.trace;
  progress.finish();
  for (const auto& note : d.report.notes) say(o.quiet, "note: {}", note);
  if (!o.json)
    for (const auto& note : d.notes) fmt::print("note: {}\n", note);
  if (o.json) {
    fmt::print("{}\n", to_json(d).dump(2));
  } else {
    print(d);
    if (!d.complete()) print_untried(d, o.seconds);
  }
  return d.report.exit_code();
}

}  // namespace

void add_diagnose(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand(
      "diagnose", "Name the known mistake that reproduces exactly the numbers of a trace");
  c->add_option("trace", o->trace, "Trace file (HDF5, schema trace/1)")->required();
  c->add_option("--model", o->model, "Checkpoint directory in the official layout")->required();
  c->add_option("--names", o->names,
                "Table of the port's own names: theirs, ours, transform (docs/diagnose.md)");
  c->add_option("--arith", o->arith, "What the port does on purpose at the rounding sites");
  c->add_option("--seconds", o->seconds, "Time for trying known mistakes")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_flag("--json", o->json, "Print the diagnosis as JSON");
  c->add_flag("-q,--quiet", o->quiet, "No progress, no notes");
  c->footer(
      "Every known mistake that could show where the trace first differs is run on the trace's own "
      "tokens and inputs.\nExit code: 0 no difference, 1 a difference, 2 bad input, 3 nothing was "
      "compared.\n"
      "Example:\n  dsv4 diagnose mine.h5 --model golden/models/tiny");
  c->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
