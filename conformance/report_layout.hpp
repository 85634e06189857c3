// SPDX-License-Identifier: Apache-2.0
// Where a result stands in every kind of report: the part of the model, the stage, and the command
// that shows just it.
#pragma once

#include <string>

#include "conformance/verdict.hpp"
#include "core/config.hpp"

namespace dsv4::conformance {

// Parts in the order of the forward pass: 0 embedding, 1 layers, 2 head, 3 MTP, 4 unknown names.
int part_of(const Result& r);
// "layer 2: CSA, ratio 4, scored routing", "MTP block 0", "head", …
std::string layer_title(const Result& r, const ModelConfig& config);
// "layers.2.attn.qr" -> "attn.qr"
std::string stage_name(const Result& r);
// The command line that judges this dataset's worst row alone.
std::string repro(const Report& report, const Result& r);

}  // namespace dsv4::conformance
