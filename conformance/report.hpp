// SPDX-License-Identifier: Apache-2.0
// A Report as text for people (layer by layer, stage by stage) and as JSON for programs.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "conformance/verdict.hpp"
#include "core/config.hpp"

namespace dsv4::conformance {

// {schema_version, mode, rounding, counts, first_difference, results: […]}; numbers that are not
// finite are strings.
nlohmann::ordered_json to_json(const Report& report);

struct TextStyle {
  bool color = false;
  bool every_call = false;  // one line per dataset instead of one per stage
};

// The table; failed lines come with the command that shows just them.
std::string to_text(const Report& report, const ModelConfig& config, const TextStyle& style);

}  // namespace dsv4::conformance
