// SPDX-License-Identifier: Apache-2.0
// One transformer block: hyper-connected attention, then hyper-connected mixture of experts.
// Official: Block.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/weights.hpp"
#include "reference/attention.hpp"
#include "reference/experts.hpp"
#include "reference/mhc.hpp"

namespace dsv4::reference {

// Field names are the checkpoint's leaf names.
struct BlockWeights {
  HcWeights hc_attn;
  Row attn_norm;  // [d]
  AttentionWeights attn;
  HcWeights hc_ffn;
  Row ffn_norm;  // [d]
  MoeWeights ffn;
};

// prefix is "layers.7" or "mtp.0"; layer indexes compress_ratios (MTP blocks follow the backbone).
BlockWeights load_block(const Checkpoint& checkpoint, const std::string& prefix,
                        std::int64_t layer);

struct Block {
  const ModelConfig& config;
  std::int64_t layer;
  const BlockWeights& w;
  const Row& frequencies;  // of this block's rope
  Round round = {};

  // streams X[s, n*d] at positions start … -> X'[s, n*d]. ids: the s token ids that route in hash
  // layers.
  Mat forward(const ConstMatRef& streams, std::int64_t start, std::span<const std::int32_t> ids,
              BlockCache& cache, const Tap& tap) const;
};

}  // namespace dsv4::reference
