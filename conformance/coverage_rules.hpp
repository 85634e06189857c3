// SPDX-License-Identifier: Apache-2.0
// Private to coverage*.cpp: what a rule sees, and the two lists of rules.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "conformance/coverage.hpp"
#include "conformance/trace_table.hpp"

namespace dsv4::conformance {

struct TraceView {
  const golden::TraceFile* file = nullptr;
  ModelConfig config;
  std::vector<Call> calls;
  std::vector<Slot> slots;  // datasets with numbered rows
};

struct Evidence {
  const Checkpoint* model = nullptr;    // may be null
  const ModelConfig* config = nullptr;  // of the model, else of the first trace; may be null
  std::vector<TraceView> traces;
};

struct Finding {
  Reached reached = Reached::no;
  std::string evidence;
};

struct Rule {
  std::string id, sentence;
  std::function<Finding(const Evidence&)> find;
};

std::vector<Rule> model_rules();
std::vector<Rule> position_rules();  // what calls and positions show, whatever was recorded
std::vector<Rule> value_rules();     // what recorded values show

// The expert numbers [vocabulary, active] of a hash layer's table; empty: not an I64 tensor.
inline std::vector<std::int64_t> expert_table(const TensorView& t) {
  std::vector<std::int64_t> ids(t.dtype == DType::I64 ? t.bytes.size() / sizeof(std::int64_t) : 0);
  if (!ids.empty()) std::memcpy(ids.data(), t.bytes.data(), ids.size() * sizeof(std::int64_t));
  return ids;
}
// BF16 has eight significant bits: odd numbers above 256 do not survive it.
inline bool bf16_cannot_hold(std::int64_t expert) { return expert > 256 && expert % 2 != 0; }

inline Finding found(bool reached, std::string evidence) {
  return {reached ? Reached::yes : Reached::no, std::move(evidence)};
}

}  // namespace dsv4::conformance
