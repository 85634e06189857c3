// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "cuda/stages/stages.hpp"

namespace dsv4::stages {

std::string why_not(const ModelConfig& c) {
  const bool known = (c.hc_mult == 3 && c.head_dim == 160 && c.rope_head_dim == 32) ||
                     (c.hc_mult == 6 && c.head_dim == 128 && c.rope_head_dim == 64) ||
                     (c.hc_mult == 4 && c.head_dim == 512 && c.rope_head_dim == 64);
  if (known && (c.index_head_dim == 64 || c.index_head_dim == 128) && c.n_routed_experts <= 384) {
    return {};
  }
  return fmt::format(
      "the kernels are not instantiated at n = {}, c = {}, r_d = {}, j = {}, {} experts", c.hc_mult,
      c.head_dim, c.rope_head_dim, c.index_head_dim, c.n_routed_experts);
}

}  // namespace dsv4::stages
