// SPDX-License-Identifier: Apache-2.0
// A Report as JUnit XML, for CI systems: a suite a layer, a case a dataset (tap and call).
#pragma once

#include <string>

#include "conformance/verdict.hpp"
#include "core/config.hpp"

namespace dsv4::conformance {

// FAILED is a failure with the worst element and the command that shows it. SKIPPED, MISTRUSTED and
// UNKNOWN are skipped cases with their reason: never a pass. Stages that the trace lacks are no
// cases.
std::string to_junit(const Report& report, const ModelConfig& config);

}  // namespace dsv4::conformance
