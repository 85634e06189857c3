// SPDX-License-Identifier: Apache-2.0
// Multi-token prediction: a block of its own that sees the backbone's streams at position t and the
// embedding of the token at t+1, and predicts t+2. Official: MTPBlock; paper section 2.1 (unchanged
// from DeepSeek-V3).
#pragma once

#include "reference/block.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct MtpWeights {
  BlockWeights block;
  Weight e_proj;  // [d, d]
  Weight h_proj;  // [d, d]
  Row enorm;      // [d]
  Row hnorm;      // [d]
  Row norm;       // [d]
  HcHeadWeights hc_head;
};

MtpWeights load_mtp(const Checkpoint& checkpoint, std::int64_t index);

// Xh[j] = h_proj RMSNorm(X[j]) + e_proj RMSNorm(e): the input of the block. streams X[s, n*d], e[s,
// d] -> [s, n*d].
Mat mtp_input(const ModelConfig& config, const MtpWeights& w, const ConstMatRef& streams,
              const ConstMatRef& e, const Tap& tap, const Round& round = {});

}  // namespace dsv4::reference
