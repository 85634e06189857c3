// SPDX-License-Identifier: Apache-2.0
#include "conformance/report_layout.hpp"

#include <fmt/format.h>

namespace dsv4::conformance {

int part_of(const Result& r) {
  if (r.verdict == Verdict::unknown) return 4;
  if (r.tap.starts_with("mtp.")) return 3;
  if (r.block >= 0) return 1;
  return r.tap == "embed" ? 0 : 2;
}

std::string layer_title(const Result& r, const ModelConfig& config) {
  if (r.verdict == Verdict::unknown) return "unknown names";
  if (r.tap.starts_with("mtp.")) return fmt::format("MTP block {}", r.block - config.n_layers);
  if (r.block < 0) return r.tap == "embed" ? "embedding" : "head";
  const std::int64_t ratio = config.ratio(r.block);
  const std::string kind = ratio == 0                     ? "window"
                           : ModelConfig::overlaps(ratio) ? "CSA, ratio 4"
                                                          : fmt::format("HCA, ratio {}", ratio);
  return fmt::format("layer {}: {}, {} routing", r.block, kind,
                     config.hash_routed(r.block) ? "hash" : "scored");
}

std::string stage_name(const Result& r) {
  if (r.block < 0) return r.tap;
  const auto second = r.tap.find('.', r.tap.find('.') + 1);
  return r.tap.substr(second + 1);
}

std::string repro(const Report& report, const Result& r) {
  const std::string rows =
      r.position >= 0 ? fmt::format(" --rows {}-{}", r.position, r.position) : "";
  const std::string names = report.names.empty() ? "" : " --names " + report.names;
  return fmt::format("dsv4 verify {} --model {} --mode {} --taps '{}' --call {}{}{}", report.trace,
                     report.model, report.mode, r.tap, r.call, rows, names);
}

}  // namespace dsv4::conformance
