// SPDX-License-Identifier: Apache-2.0
// What `dsv4 inspect` knows about a model or a trace, as JSON; the text output is made from the
// same.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::cli {

struct InspectDetail {
  bool plan = false;  // costs of a model, for `context` tokens
  std::int64_t context = 65536;
  bool fingerprint = false;  // of a model: reads two pages of every tensor
  bool datasets = false;     // every dataset of a trace
};

nlohmann::ordered_json describe(const Checkpoint& model, const InspectDetail& detail);
nlohmann::ordered_json describe(const golden::TraceFile& trace, const InspectDetail& detail);

}  // namespace dsv4::cli
