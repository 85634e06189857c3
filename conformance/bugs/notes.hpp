// SPDX-License-Identifier: Apache-2.0
// What a port may lack without any difference of its trace.
#pragma once

#include <optional>
#include <string>

#include "conformance/trace_table.hpp"

namespace dsv4::bugs {

// A trace with everything but the draft block, which the checkpoint has. Said only where the rest
// is there: taps of each layer, logits, and the ids that the block reads.
std::optional<std::string> missing_draft(conformance::TraceTable& table, const ModelConfig& config);

}  // namespace dsv4::bugs
