// SPDX-License-Identifier: Apache-2.0
// Which known mistake reproduces exactly these numbers? The reference says where a trace first
// differs; every planted bug that could show there is then run on the trace's own tokens and
// inputs, and named only when what remains lies within the verdict's own bounds.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conformance/bugs/mutants.hpp"
#include "conformance/runner.hpp"

namespace dsv4::bugs {

// Bugs that give equal numbers on this trace, and the stage that shows them.
struct Part {
  std::string tap;
  std::vector<std::string> ids;
};

// One part, or several in different stages that explain the trace together.
struct Explanation {
  std::vector<Part> parts;
  double explained = 0;  // 1 - |trace - bug|^2 / |trace - reference|^2, taps scaled by their bounds
  double explained_at_first = 0;  // the same at the tap of the trace's first difference alone
  std::string remaining;          // first difference that is still there; empty: none
};

struct Diagnosis {
  conformance::Report report;           // of the true reference
  std::vector<Explanation> candidates;  // named: within the bounds where the trace first differs
  std::optional<Explanation> nearest;   // where none is named
  std::vector<std::string> notes;       // what no difference shows
  std::int64_t runs = 0;
  std::int64_t untried = 0;  // runs that were due when the time was over
  bool complete() const { return untried == 0; }
  bool explains_all() const { return !candidates.empty() && candidates.front().remaining.empty(); }
};

struct DiagnoseOptions {
  std::shared_ptr<const Arithmetic> arithmetic;  // of the port, by design
  std::function<void(double fraction)> progress;
  // After so long no suspect is begun, and those that run are stopped. Where the trace differs is
  // found in any case.
  double seconds = 30;
};

Diagnosis diagnose(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                   conformance::Backend& reference, const DiagnoseOptions& options);

}  // namespace dsv4::bugs
