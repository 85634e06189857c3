// SPDX-License-Identifier: Apache-2.0
#include "conformance/report.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>

#include "conformance/report_layout.hpp"
#include "core/taps.hpp"

namespace dsv4::conformance {
namespace {

using nlohmann::ordered_json;

ordered_json number(double v) {
  if (std::isfinite(v)) return v;
  return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
}

ordered_json to_json(const Result& r) {
  ordered_json j{{"tap", r.tap}, {"call", r.call}, {"verdict", name(r.verdict)}};
  if (!r.reason.empty()) j["reason"] = r.reason;
  j["error"] = number(r.error);
  j["bound"] = number(r.bound);
  j["ours"] = number(r.ours);
  j["theirs"] = number(r.theirs);
  if (r.rms_bound > 0) {
    j["rms"] = number(r.rms);
    j["rms_bound"] = number(r.rms_bound);
    j["bias"] = number(r.bias);
    j["bias_bound"] = number(r.bias_bound);
  }
  j["index"] = r.index;
  j["position"] = r.position;
  j["magnitude"] = number(r.magnitude);
  j["span"] = r.span;
  j["rows"] = r.rows;
  j["inherited"] = r.inherited;
  j["replays"] = r.replays;
  j["elements"] = r.elements;
  j["equal"] = r.equal;
  j["behind_choices"] = r.behind_choices;
  if (r.replays > 0) j["margin"] = number(r.margin);
  if (r.spread > 0 || r.spread_ratio > 0) {
    j["spread"] = number(r.spread);
    j["spread_ratio"] = number(r.spread_ratio);
  }
  if (r.noisy_rows > 0) j["noisy_rows"] = r.noisy_rows;
  return j;
}

double ratio(const Result& r) {
  return r.error == 0 ? 0 : r.bound > 0 ? r.error / r.bound : INFINITY;
}

// Results of one stage over all calls, folded into a line.
struct Line {
  const Result* worst = nullptr;
  int calls = 0;
  std::int64_t rows = 0, inherited = 0, replays = 0;
  Result noise;  // only its spreads and noisy rows
  std::map<Verdict, int> verdicts;

  void add(const Result& r) {
    ++calls;
    rows += r.rows;
    inherited += r.inherited;
    replays += r.replays;
    noise.noisy_rows += r.noisy_rows;
    noise.spread = std::max(noise.spread, r.spread);
    noise.spread_ratio = std::max(noise.spread_ratio, r.spread_ratio);
    ++verdicts[r.verdict];
    const bool failed = r.verdict == Verdict::failed;
    const bool worst_failed = worst && worst->verdict == Verdict::failed;
    if (!worst || failed > worst_failed || (failed == worst_failed && ratio(r) > ratio(*worst)))
      worst = &r;
  }
  Verdict verdict() const {
    for (const Verdict v : {Verdict::failed, Verdict::unknown, Verdict::mistrusted, Verdict::passed,
                            Verdict::skipped, Verdict::not_exposed}) {
      if (verdicts.contains(v)) return v;
    }
    return Verdict::absent;
  }
};

std::string painted(std::string text, Verdict v, bool color) {
  if (!color) return text;
  const int code = v == Verdict::passed ? 32 : v == Verdict::failed ? 31 : 33;
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

std::string place(const Result& r) {
  if (r.position < 0) return "";
  return fmt::format("call {} pos {} [{}]", r.call, r.position, fmt::join(r.index, ","));
}

// Root mean square and mean of the errors, in units of what independent roundings give.
std::string statistics(const Result& r) {
  return r.rms_bound > 0 ? fmt::format("{:.2f} {:+.2f}", r.rms, r.bias) : "";
}

std::string notes(const Line& line) {
  std::vector<std::string> out;
  if (line.replays > 0)
    out.push_back(fmt::format("{} replayed, widest gap {:.1e}", line.replays, line.worst->margin));
  if (line.noise.spread > 0) {
    out.push_back(fmt::format("repeats differ by {:.1e}, {:.2g} of the bound", line.noise.spread,
                              line.noise.spread_ratio));
  }
  if (line.noise.noisy_rows > 0)
    out.push_back(fmt::format("repeats choose otherwise in {} rows", line.noise.noisy_rows));
  if (line.inherited > 0)
    out.push_back(fmt::format("{} of {} rows inherited", line.inherited, line.rows));
  if (!line.worst->reason.empty()) out.push_back(line.worst->reason);
  if (line.worst->verdict == Verdict::failed && line.worst->rms_bound > 0) {
    out.push_back(fmt::format("rms at most {:.2f}, bias {:.2f}", line.worst->rms_bound,
                              line.worst->bias_bound));
  }
  return fmt::format("{}", fmt::join(out, "; "));
}

// What repeats of the run say of the port itself.
std::string noise_floor(const Report& report) {
  if (report.repeats.empty()) return {};
  const auto moved =
      std::count_if(report.results.begin(), report.results.end(),
                    [](const Result& r) { return r.spread > 0 || r.noisy_rows > 0; });
  std::string text = fmt::format("  noise floor of {} traces: {} of {} datasets differ\n",
                                 report.repeats.size() + 1, moved, report.results.size());
  if (const Result* f = report.first_unstable()) {
    text += fmt::format(
        "  the port's own nondeterminism: {} (call {}) is the first whose repeats are further "
        "apart "
        "than its bound: {:.3e}, {:.3g} times the bound\n",
        f->tap, f->call, f->spread, f->spread_ratio);
  }
  return text;
}

bool shown(Verdict v) { return v != Verdict::absent; }

}  // namespace

ordered_json to_json(const Report& report) {
  ordered_json j{{"schema_version", 1},         {"mode", report.mode},
                 {"rounding", report.rounding}, {"backend", report.backend},
                 {"trace", report.trace},       {"model", report.model}};
  j["counts"] = report.counts();
  j["first_difference"] = nullptr;
  if (const Result* f = report.first_difference()) {
    j["first_difference"] = {
        {"tap", f->tap},     {"call", f->call},           {"position", f->position},
        {"index", f->index}, {"error", number(f->error)}, {"bound", number(f->bound)}};
    if (!f->reason.empty()) j["first_difference"]["reason"] = f->reason;
  }
  if (!report.repeats.empty()) {
    j["repeats"] = report.repeats;
    j["first_unstable"] = nullptr;
    if (const Result* f = report.first_unstable()) {
      j["first_unstable"] = {{"tap", f->tap},
                             {"call", f->call},
                             {"spread", number(f->spread)},
                             {"spread_ratio", number(f->spread_ratio)}};
    }
  }
  j["notes"] = report.notes;
  j["declared"] = report.declared;
  j["seconds"] = {{"compute", report.seconds_compute},
                  {"compare", report.seconds_compare},
                  {"read", report.seconds_read}};
  j["bytes_compared"] = report.bytes_compared;
  j["results"] = ordered_json::array();
  for (const Result& r : report.results) j["results"].push_back(to_json(r));
  return j;
}

std::string to_text(const Report& report, const ModelConfig& config, const TextStyle& style) {
  // Stages in the order of the forward pass, whatever the order of the file.
  std::map<std::tuple<int, int, int, std::string, int>, Line> lines;
  for (const Result& r : report.results) {
    if (!shown(r.verdict)) continue;
    lines[{part_of(r), r.block, r.order, r.tap, style.every_call ? r.call : 0}].add(r);
  }
  std::string text;
  auto out = std::back_inserter(text);
  std::string title;
  for (const auto& [key, line] : lines) {
    const Result& r = *line.worst;
    const std::string here = layer_title(r, config);
    if (here != title) {
      fmt::format_to(out, "{}{}\n", title.empty() ? "" : "\n",
                     fmt::format("{:<36} {:>9} {:>9} {:>11}", here, "error", "bound", "rms bias"));
      title = here;
    }
    const Verdict v = line.verdict();
    const bool numbers = v == Verdict::passed || v == Verdict::failed;
    fmt::format_to(out, "  {:<34} {:>9} {:>9} {:>11}  {:<28} {:<10} {}\n", stage_name(r),
                   numbers ? fmt::format("{:.2e}", r.error) : "",
                   numbers ? fmt::format("{:.2e}", r.bound) : "", numbers ? statistics(r) : "",
                   place(r), painted(std::string(name(v)), v, style.color), notes(line));
  }
  const auto counts = report.counts();
  fmt::format_to(out, "\n{}: {} mode, {} numerics, backend {}\n", report.trace, report.mode,
                 report.rounding, report.backend);
  for (const auto& [verdict, n] : counts) {
    if (n > 0) fmt::format_to(out, "  {:<10} {:>7}\n", verdict, n);
  }
  std::int64_t replays = 0, inherited = 0, behind = 0, elements = 0, equal = 0;
  for (const Result& r : report.results) {
    const auto m = find_tap(r.tap, static_cast<int>(config.n_layers));
    replays += r.replays;
    inherited += r.inherited;
    behind += r.behind_choices;
    if (!m || m->info->dtype != "bf16") continue;
    elements += r.elements;
    equal += r.equal;
  }
  if (report.rounding == "official" && elements > 0) {
    fmt::format_to(out, "  {} of {} BF16 values are equal bit for bit ({:.4f} %)\n", equal,
                   elements, 100 * static_cast<double>(equal) / static_cast<double>(elements));
  }
  if (behind > 0) {
    fmt::format_to(out,
                   "  {} rows lie behind a tie that the trace does not show, and differ as "
                   "perturbed runs do\n",
                   behind);
  }
  for (const auto& line : report.declared) fmt::format_to(out, "  declared deviation: {}\n", line);
  if (replays > 0)
    fmt::format_to(
        out,
        "  {} decisions differ legally (ties, or within the scores' error) and were replayed\n",
        replays);
  if (inherited > 0)
    fmt::format_to(out, "  {} rows are inherited: they read values that the trace does not have\n",
                   inherited);
  text += noise_floor(report);
  if (const Result* f = report.first_difference()) {
    fmt::format_to(out,
                   "\nfirst difference: {} at position {} [{}]: error {:.3e}, bound {:.3e} (ours "
                   "{:.17g}, trace {:.17g}) {}\n",
                   f->tap, f->position, fmt::join(f->index, ","), f->error, f->bound, f->ours,
                   f->theirs, f->reason);
    if (!f->span.empty())
      fmt::format_to(out, "  span: {} → {}\n", fmt::join(f->span, ", "), f->tap);
    fmt::format_to(out, "  again: {}\n", repro(report, *f));
  }
  return text;
}

}  // namespace dsv4::conformance
