// SPDX-License-Identifier: Apache-2.0
// The mixture of experts of a block: routed SwiGLU experts and one shared one. Official: Expert,
// MoE.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/gate.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct ExpertWeights {
  Weight w1;  // [f, d] gate
  Weight w2;  // [d, f] down
  Weight w3;  // [f, d] up
};

struct MoeWeights {
  GateWeights gate;
  std::vector<ExpertWeights> experts;
  ExpertWeights shared_experts;
};

struct SwiGlu {
  Mat gate;    // [y, f] clamped from above only
  Mat up;      // [y, f] clamped on both sides
  Mat hidden;  // [y, f] weight * silu(gate) * up
};

// The routing weight multiplies BEFORE w2. weight[y, 1], or empty for the shared expert; limit 0 =
// no clamp.
SwiGlu swiglu(Mat gate, Mat up, const Mat& weight, Real limit);

// x[s, d], ids of the s tokens -> [s, d].
Mat moe(const ModelConfig& config, const MoeWeights& w, const ConstMatRef& x,
        std::span<const std::int32_t> ids, const Tap& tap, const Round& round = {});

}  // namespace dsv4::reference
