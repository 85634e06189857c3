// SPDX-License-Identifier: Apache-2.0
#include "cli/kernel_backend.hpp"

#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <set>

#include "cli/kernel_stages.hpp"

namespace dsv4::cli {

conformance::Support KernelBackend::supports(const conformance::Case& request) const {
  if (request.numerics.rounding != Rounding::official) {
    return {false,
            "SKIPPED(rounding): the kernels round as the official code does; this trace does not"};
  }
  if (request.numerics.arithmetic) {
    return {false, "SKIPPED(arithmetic): the kernels know the official arithmetic alone"};
  }
  if (const std::string reason = stages::why_not(request.checkpoint->config()); !reason.empty()) {
    return {false, "SKIPPED(size): " + reason};
  }
  return reference_->supports(request);
}

void KernelBackend::run(const conformance::Case& request, Tap tap) {
  // An ensemble of perturbed runs judges the trace, not the kernels.
  if (request.numerics.perturbation.seed != 0 || tap.sink() == nullptr) {
    return reference_->run(request, tap);
  }
  KernelStages sink(*tap.sink(), request, *kernels_, results_);
  reference_->run(request, Tap(sink));
  sink.finish();
}

std::string_view name(KernelVerdict verdict) {
  constexpr std::string_view names[] = {"PASSED", "FAILED", "SKIPPED", "NOT_EXPOSED"};
  return names[static_cast<int>(verdict)];
}

namespace {

// "layers.3.attn.q" -> "layers.L.attn.q"
std::string kind_of(const std::string& tap) {
  std::string out;
  for (std::size_t i = 0; i < tap.size(); ++i) {
    const bool digit =
        tap[i] >= '0' && tap[i] <= '9' && i > 0 && (tap[i - 1] == '.' || out.back() == '#');
    if (!digit) {
      out += tap[i];
    } else if (out.back() != '#') {
      out += '#';
    }
  }
  return out;
}

struct Line {
  std::map<KernelVerdict, int> counts;
  std::int64_t elements = 0, equal = 0;
  double used = 0, rms = 0;  // largest error / bound; largest of the root mean squares
  std::string reason;
};

}  // namespace

std::string kernel_text(const KernelBackend& backend) {
  std::map<KernelVerdict, int> counts;
  std::vector<std::string> order;
  std::map<std::string, Line> lines;
  std::string failed;
  for (const KernelResult& r : backend.results()) {
    ++counts[r.verdict];
    const std::string kind = kind_of(r.tap);
    if (!lines.contains(kind)) order.push_back(kind);
    Line& line = lines[kind];
    ++line.counts[r.verdict];
    line.elements += r.elements;
    line.equal += r.equal;
    if (r.bound > 0) line.used = std::max(line.used, r.error / r.bound);
    line.rms = std::max(line.rms, r.rms);
    if (!r.reason.empty()) line.reason = r.reason;
    if (r.verdict == KernelVerdict::failed) {
      failed += fmt::format("FAILED {} call {} [{}]: error {:.3g}, bound {:.3g} {}\n", r.tap,
                            r.call, fmt::join(r.index, ", "), r.error, r.bound, r.reason);
    }
  }
  const std::string device =
      backend.device() == "emulated" ? "emulated (no GPU)" : backend.device();
  std::string out =
      fmt::format("\nkernels, {}, against the float64 reference on the trace's inputs\n", device);
  for (const std::string& kind : order) {
    const Line& l = lines[kind];
    if (l.counts.size() == 1 && l.counts.contains(KernelVerdict::not_exposed)) continue;
    std::string verdicts;
    for (const auto& [v, n] : l.counts) verdicts += fmt::format("{} {} ", name(v), n);
    out +=
        fmt::format("  {:42} {:12} {:8} values, {:8} equal, {:3.0f} % of the bound, RMS {:.2f}\n",
                    kind, verdicts, l.elements, l.equal, 100 * l.used, l.rms);
  }
  out += failed;
  for (const auto& [v, n] : counts) out += fmt::format("{} {}  ", name(v), n);
  return out + "\n";
}

nlohmann::ordered_json kernel_json(const KernelBackend& backend) {
  nlohmann::ordered_json counts = nlohmann::ordered_json::object();
  auto list = nlohmann::ordered_json::array();
  for (const KernelResult& r : backend.results()) {
    const std::string verdict(name(r.verdict));
    counts[verdict] = counts.value(verdict, 0) + 1;
    list.push_back({{"tap", r.tap},
                    {"call", r.call},
                    {"verdict", verdict},
                    {"reason", r.reason},
                    {"elements", r.elements},
                    {"equal", r.equal},
                    {"error", std::isfinite(r.error) ? r.error : -1},
                    {"bound", r.bound},
                    {"rms", r.rms},
                    {"bias", r.bias}});
  }
  return {{"device", backend.device()}, {"counts", counts}, {"results", list}};
}

int kernel_exit_code(const std::vector<KernelResult>& results) {
  bool passed = false;
  for (const KernelResult& r : results) {
    if (r.verdict == KernelVerdict::failed) return 1;
    passed |= r.verdict == KernelVerdict::passed;
  }
  return passed ? 0 : 3;
}

}  // namespace dsv4::cli
