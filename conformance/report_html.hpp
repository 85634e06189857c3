// SPDX-License-Identifier: Apache-2.0
// A Report as one HTML page that needs nothing else: layers by stages as a heat map, each cell with
// its worst element, both numbers, the span and the command that shows it.
#pragma once

#include <string>

#include "conformance/verdict.hpp"
#include "core/config.hpp"

namespace dsv4::conformance {

std::string to_html(const Report& report, const ModelConfig& config);

}  // namespace dsv4::conformance
