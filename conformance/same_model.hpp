// SPDX-License-Identifier: Apache-2.0
// Is this trace a trace of this model? The config must agree; the weights too, where the trace has
// a fingerprint.
#pragma once

#include <string>
#include <vector>

#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::conformance {

// Throws TraceError when the trace belongs to another model; adds a note when that could not be
// checked.
void require_same_model(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                        std::vector<std::string>& notes);

// Fields in which two configs differ, as "n_heads: 4 against 8".
std::vector<std::string> config_differences(const ModelConfig& a, const ModelConfig& b);

}  // namespace dsv4::conformance
