// SPDX-License-Identifier: Apache-2.0
#include "conformance/coverage.hpp"

#include <iterator>
#include <stdexcept>

#include "conformance/coverage_rules.hpp"

namespace dsv4::conformance {

std::string_view name(Reached reached) {
  return reached == Reached::yes ? "yes" : reached == Reached::no ? "no" : "unknown";
}

std::vector<Condition> coverage(const Checkpoint* model,
                                std::span<const golden::TraceFile> traces) {
  Evidence evidence;
  evidence.model = model;
  for (const golden::TraceFile& file : traces) {
    TraceView view{
        &file, parse_config(file.attributes().config_json, file.path().string()).config, {}, {}};
    TraceTable table(file, view.config);
    view.calls = table.calls();
    view.slots = std::move(table.slots());
    evidence.traces.push_back(std::move(view));
  }
  if (!evidence.traces.empty()) evidence.config = &evidence.traces.front().config;
  if (model) evidence.config = &model->config();

  std::vector<Condition> conditions;
  for (const auto& rules : {model_rules(), position_rules(), value_rules()}) {
    for (const Rule& rule : rules) {
      const Finding f = evidence.config ? rule.find(evidence) : found(false, "no model, no trace");
      conditions.push_back({rule.id, rule.sentence, f.reached, f.evidence});
    }
  }
  return conditions;
}

std::vector<Condition> merge(std::vector<Condition> a, const std::vector<Condition>& b) {
  if (a.size() != b.size()) throw std::logic_error("merge: not two lists of coverage()");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (b[i].reached > a[i].reached) a[i] = b[i];
  }
  return a;
}

}  // namespace dsv4::conformance
