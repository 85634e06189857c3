// SPDX-License-Identifier: Apache-2.0
// verify: one question, whoever made the trace. Runs a backend over the trace's own calls (or
// another split of them), lets the Comparer judge every value, and where no closed bound exists
// lets an ensemble of perturbed runs judge.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "conformance/backend.hpp"
#include "conformance/comparer.hpp"
#include "conformance/verdict.hpp"
#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::conformance {

struct VerifyOptions {
  Mode mode = Mode::local;
  Selection selection;
  std::vector<std::int64_t> chunks;  // re-split; empty: the trace's own calls
  std::int64_t first_layer = 0;      // > 0: starts at the trace's layers.(first-1).hc_ffn.out
  std::int64_t last_layer = -1;
  std::vector<std::string> require;      // globs of taps that must be in the trace
  std::vector<std::string> not_exposed;  // taps or templates that the port fuses away, it says
  int ensemble = 16;
  std::shared_ptr<const Arithmetic> arithmetic;   // of the port, by design; null: the official one
  std::function<void(double fraction)> progress;  // 0 … 1 of the expected work
};

// Throws TraceError when the trace is of another model (config, fingerprint), UsageError for
// impossible requests. `repeats`: further traces of the same run; `trace` is judged, and their
// distance to it is noted beside its bounds (the port's own noise).
Report verify(const golden::TraceFile& trace, const Checkpoint& checkpoint, Backend& backend,
              const VerifyOptions& options, std::span<const golden::TraceFile> repeats = {});

}  // namespace dsv4::conformance
