// SPDX-License-Identifier: Apache-2.0
// The rules between config fields: what no single value can show to be wrong.
#include <bit>
#include <fmt/format.h>

#include "core/config.hpp"
#include "core/error.hpp"

namespace dsv4 {
namespace {

class Rules {
 public:
  explicit Rules(std::string_view where) : where_(where) {}

  void require(bool ok, const std::string& what, const std::string& hint = {}) const {
    if (!ok) throw ConfigError(fmt::format("{}: {}", where_, what), hint);
  }

 private:
  std::string_view where_;
};

void check_layers(const ModelConfig& c, const Rules& rules) {
  const std::int64_t expected = c.n_layers + c.n_mtp_layers;
  const auto found = static_cast<std::int64_t>(c.compress_ratios.size());
  rules.require(
      found == expected,
      fmt::format("compress_ratios: expected {} entries ({} layers + {} MTP blocks), found {}",
                  expected, c.n_layers, c.n_mtp_layers, found),
      "the MTP blocks' entries stand at the end; inference/config.json has no field for "
      "their number, it is 1 unless n_mtp_layers says otherwise");
  rules.require(c.n_hash_layers <= c.n_layers,
                fmt::format("n_hash_layers (num_hash_layers) is {}, more than the {} layers",
                            c.n_hash_layers, c.n_layers));
}

void check_attention(const ModelConfig& c, const Rules& rules) {
  rules.require(
      c.rope_head_dim % 2 == 0,
      fmt::format("rope_head_dim (qk_rope_head_dim) is {}: RoPE rotates pairs, so it must be even",
                  c.rope_head_dim));
  rules.require(c.head_dim >= c.rope_head_dim,
                fmt::format("head_dim {} is smaller than rope_head_dim (qk_rope_head_dim) {}",
                            c.head_dim, c.rope_head_dim));
  rules.require(c.n_heads * c.head_dim % c.o_groups == 0,
                fmt::format("n_heads*head_dim = {}*{} is not a multiple of o_groups {}", c.n_heads,
                            c.head_dim, c.o_groups));
  rules.require(std::has_single_bit(static_cast<std::uint64_t>(c.index_head_dim)),
                fmt::format("index_head_dim is {}: the Hadamard transform needs a power of two",
                            c.index_head_dim));
  rules.require(c.index_head_dim >= c.rope_head_dim,
                fmt::format("index_head_dim {} is smaller than rope_head_dim (qk_rope_head_dim) {}",
                            c.index_head_dim, c.rope_head_dim));
}

void check_experts(const ModelConfig& c, const Rules& rules) {
  rules.require(c.n_shared_experts == 1,
                fmt::format("n_shared_experts: expected 1, found {}", c.n_shared_experts));
  rules.require(
      c.n_activated_experts <= c.n_routed_experts,
      fmt::format(
          "n_activated_experts (num_experts_per_tok) is {}, more than the {} routed experts",
          c.n_activated_experts, c.n_routed_experts));
  if (c.expert_format != WeightFormat::fp4) return;
  rules.require(
      c.dim % 32 == 0 && c.moe_inter_dim % 32 == 0,
      fmt::format("FP4 experts have a scale per 32 inputs: dim {} and moe_inter_dim {} must be "
                  "multiples of 32",
                  c.dim, c.moe_inter_dim));
}

}  // namespace

void check_config(const ModelConfig& c, std::string_view where) {
  const Rules rules(where);
  check_layers(c, rules);
  check_attention(c, rules);
  check_experts(c, rules);
  rules.require(c.original_seq_len == 0 || c.beta_fast >= c.beta_slow,
                fmt::format("beta_fast {} is smaller than beta_slow {}", c.beta_fast, c.beta_slow));
}

}  // namespace dsv4
