// SPDX-License-Identifier: Apache-2.0
#include "cli/diff.hpp"

#include <fmt/format.h>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/backends.hpp"
#include "cli/named_trace.hpp"
#include "cli/options.hpp"
#include "conformance/diff.hpp"
#include "conformance/report.hpp"
#include "conformance/runner.hpp"
#include "conformance/same_model.hpp"
#include "core/error.hpp"

namespace dsv4::cli {
namespace {

struct Options {
  std::string a, b, model, names;
  double tolerance = -1;
  bool first = false, json = false;
};

const char* verdict(const conformance::Difference& d, double tolerance) {
  if (!d.problem.empty()) return "FAILED";
  if (d.rows == 0) return "SKIPPED";
  if (tolerance < 0) return "";
  return d.relative <= tolerance ? "PASSED" : "FAILED";
}

nlohmann::ordered_json to_json(const conformance::Difference& d, double tolerance) {
  nlohmann::ordered_json j{
      {"tap", d.tap},           {"rows", d.rows},         {"max_error", d.max_error},
      {"relative", d.relative}, {"rms", d.rms},           {"cosine_distance", d.cosine_distance},
      {"ulps", d.ulps},         {"position", d.position}, {"column", d.column}};
  if (!d.problem.empty()) j["problem"] = d.problem;
  if (const std::string v = verdict(d, tolerance); !v.empty()) j["verdict"] = v;
  return j;
}

// Both traces judged against the reference; the worse exit code counts.
int judged(const Options& o, const golden::TraceFile& a, const golden::TraceFile& b,
           nlohmann::ordered_json& j) {
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  const auto backend = make_backend("reference");
  int worst = kAllPassed;
  for (const auto& [path, t] : {std::pair(&o.a, &a), std::pair(&o.b, &b)}) {
    auto report = conformance::verify(*t, checkpoint, *backend, {});
    report.trace = *path;
    j["verify"].push_back(nlohmann::ordered_json{
        {"trace", report.trace}, {"counts", report.counts()}, {"exit_code", report.exit_code()}});
    if (!o.json) {
      const auto counts = report.counts();
      fmt::print("{} against the reference: {} PASSED, {} FAILED\n", report.trace,
                 counts.at("PASSED"), counts.at("FAILED"));
    }
    worst = worst == kDifference || report.exit_code() == kDifference
                ? kDifference
                : std::max(worst, report.exit_code());
  }
  return worst;
}

int run(const Options& o) {
  const NamedTrace named_a(o.a, o.names);
  const NamedTrace named_b(o.b, o.names);
  const golden::TraceFile& a = named_a.file();
  const golden::TraceFile& b = named_b.file();
  if (!o.model.empty()) {
    // Refuse a wrong model before anything is printed.
    const Checkpoint checkpoint = Checkpoint::open(o.model);
    std::vector<std::string> notes;
    conformance::require_same_model(a, checkpoint, notes);
    conformance::require_same_model(b, checkpoint, notes);
  }
  const auto differences = conformance::diff(a, b);
  nlohmann::ordered_json j{
      {"schema_version", 1}, {"a", o.a}, {"b", o.b}, {"results", nlohmann::ordered_json::array()}};
  std::int64_t compared = 0;
  bool failed = false;
  if (!o.json)
    fmt::print("{:<48} {:>9} {:>9} {:>9} {:>9}  {:<18}\n", "tap", "max", "relative", "rms", "1-cos",
               "at");
  for (const auto& d : differences) {
    compared += d.rows;
    const bool bad = std::string_view(verdict(d, o.tolerance)) == "FAILED";
    failed |= bad;
    if (o.first && !bad && d.max_error == 0) continue;
    j["results"].push_back(to_json(d, o.tolerance));
    if (!o.json) {
      fmt::print("{:<48} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e}  {:<18} {} {}\n", d.tap, d.max_error,
                 d.relative, d.rms, d.cosine_distance,
                 fmt::format("pos {} [{}]", d.position, d.column), verdict(d, o.tolerance),
                 d.problem);
    }
    if (o.first) break;
  }
  int exit_code = compared == 0 ? kNothingCompared : failed ? kDifference : kAllPassed;
  if (!o.model.empty())
    exit_code = std::max(exit_code == kNothingCompared ? 0 : exit_code, judged(o, a, b, j));
  if (o.json) fmt::print("{}\n", j.dump(2));
  if (compared == 0)
    fmt::print(stderr, "dsv4: nothing was compared: the traces share no row of any tap\n");
  return compared == 0 ? kNothingCompared : exit_code;
}

}  // namespace

void add_diff(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("diff", "Compare two traces directly, without running anything");
  c->add_option("a", o->a, "Trace file")->required();
  c->add_option("b", o->b, "Trace file")->required();
  auto* tol = c->add_option("--tol", o->tolerance,
                            "FAILED above this error, relative to the largest magnitude of the tap")
                  ->check(CLI::NonNegativeNumber);
  c->add_option("--model", o->model, "Also judge both against the reference on this checkpoint")
      ->excludes(tol);
  c->add_option("--names", o->names,
                "Table of the port's own names, for both; datasets that it does not name keep "
                "theirs (docs/diagnose.md)");
  c->add_flag("--first", o->first, "Stop at the first stage that differs");
  c->add_flag("--json", o->json, "Print JSON");
  c->footer(
      "Without --tol and --model there are no verdicts and the exit code is 0 (3 if nothing is "
      "shared).\n"
      "Example:\n  dsv4 diff official.h5 mine.h5 --tol 1e-6 --first");
  c->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
