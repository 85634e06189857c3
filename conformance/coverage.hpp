// SPDX-License-Identifier: Apache-2.0
// Which conditions a model and its traces reach, without which known mistakes of ports stay
// invisible. A condition is reached only on evidence; what needs a tap that no trace has is
// `unknown`. Nothing here judges numbers.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::conformance {

enum class Reached { no, unknown, yes };
std::string_view name(Reached reached);

struct Condition {
  std::string id;        // "topk-truncation"
  std::string sentence;  // what must occur
  Reached reached = Reached::no;
  std::string evidence;  // where it occurs, or what is missing
};

// `model` may be null: then only what traces and their configs show is known. The traces are of
// that model.
std::vector<Condition> coverage(const Checkpoint* model, std::span<const golden::TraceFile> traces);

// Conditions of several models together: the best of each. Both lists come from coverage().
std::vector<Condition> merge(std::vector<Condition> a, const std::vector<Condition>& b);

}  // namespace dsv4::conformance
