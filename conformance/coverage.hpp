// SPDX-License-Identifier: Apache-2.0
// Which conditions a model and its traces reach, without which known mistakes of ports stay
// invisible. A condition is reached only on evidence; what the optional taps would have to show is
// `unknown` without them. Nothing here judges numbers.
#pragma once

#include <span>
#include <string>
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

// `model` may be null: then only what traces and their config show is known.
std::vector<Condition> coverage(const Checkpoint* model, std::span<const golden::TraceFile> traces);

}  // namespace dsv4::conformance
