// SPDX-License-Identifier: Apache-2.0
// What a model costs on this reference: bytes and arithmetic per block, from shapes alone. An
// estimate of work, not of time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/weights.hpp"

namespace dsv4::cli {

struct BlockCost {
  std::string name;                 // "layers.7", "mtp.0", "embed and head"
  std::string type;                 // window, CSA, HCA
  std::uint64_t weight_bytes = 0;   // as stored
  std::uint64_t touched_bytes = 0;  // of those, what one token reads: its experts only
  double cache_bytes = 0;           // key/value rows for the whole context, in Real
  double flops = 0;                 // of the token at the end of the context, two per multiply-add
};

std::string layer_type(const ModelConfig& config, std::int64_t block);
std::vector<BlockCost> plan(const Checkpoint& model, std::int64_t context);

}  // namespace dsv4::cli
