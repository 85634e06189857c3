// SPDX-License-Identifier: Apache-2.0
// Which experts a token visits, and with what weight: by its hash (the first layers) or by score.
// Official: Gate.
#pragma once

#include <cstdint>
#include <span>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct GateWeights {
  Weight weight;  // [x, d]
  Row bias;       // [x], scored layers; shifts the choice, never the weights
  std::span<const std::int64_t> tid2eid;  // [vocab, a], hash layers
};

struct Routing {
  IntMat indices;  // [s, a] experts
  Mat weights;     // [s, a] their weights: scores normalised over the chosen, times route_scale
};

// sqrt(softplus(x)), softplus linear above 20 as in PyTorch.
Real sqrt_softplus(Real x);

// x[s, d]; ids: the s token ids of the rows.
Routing route(const ModelConfig& config, const GateWeights& w, const ConstMatRef& x,
              std::span<const std::int32_t> ids, Tap tap, Ties ties = Ties::lowest);

}  // namespace dsv4::reference
