// SPDX-License-Identifier: Apache-2.0
// From what a run found to verdicts: one Result per dataset of the trace, and one per stage the
// trace lacks.
#pragma once

#include <vector>

#include "conformance/comparer.hpp"
#include "conformance/runner.hpp"
#include "conformance/verdict.hpp"

namespace dsv4::conformance {

std::vector<Result> conclude(TraceTable& table, const ModelConfig& config, Comparer& judge,
                             const VerifyOptions& options);

}  // namespace dsv4::conformance
