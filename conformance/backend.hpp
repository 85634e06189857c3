// SPDX-License-Identifier: Apache-2.0
// The narrow waist: what a backend is asked to compute, and how it answers. Everything it computes
// leaves through the tap, under the names of core/taps.tsv. Expected values are kept apart from
// what a backend sees.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"

namespace dsv4::conformance {

// One forward call over positions [start, end).
struct Call {
  std::int64_t start = 0;
  std::int64_t end = 0;
  std::vector<std::int64_t> logits_at =
      {};  // positions whose logits are wanted; empty: the last one
};

struct Case {
  std::string id;
  const Checkpoint* checkpoint = nullptr;
  std::vector<std::int32_t> ids;  // of the whole sequence; MTP reads one past the last call
  std::vector<Call> calls;        // contiguous, from position 0
  bool mtp = false;
  std::int64_t first_layer = 0;
  std::int64_t last_layer = -1;  // -1: all, then head
  // X[s, n*d] entering first_layer, when that is not the embedding.
  std::function<Mat(const Call&)> streams;
  Numerics numerics;
};

struct Support {
  bool yes = true;
  std::string reason;  // why not: printed and counted, never a silent pass
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual Support supports(const Case& request) const = 0;
  virtual void run(const Case& request, Tap tap) = 0;
};

}  // namespace dsv4::conformance
