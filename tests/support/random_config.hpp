// SPDX-License-Identifier: Apache-2.0
// Seeded random small configs: every size drawn by itself, so that no two axes agree by habit.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "core/config.hpp"
#include "core/rng.hpp"

namespace dsv4::testing {

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : rng_(seed, "config") {}
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(rng_.bits(next_++) %
                                           static_cast<std::uint64_t>(high - low + 1));
  }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, std::ssize(values) - 1)];
  }

 private:
  Rng rng_;
  std::uint64_t next_ = 0;
};

// Layers of ratio 4 and of `hca_ratio` beside window-only ones, in random order and number; an MTP
// block; 1 … 5 streams; odd sizes of everything that may be odd.
inline ModelConfig random_config(std::uint64_t seed, std::int64_t hca_ratio) {
  Draw draw(seed);
  ModelConfig c;
  c.vocab_size = draw.between(17, 60);
  c.hc_mult = static_cast<std::int64_t>(seed % 5) + 1;
  c.hc_sinkhorn_iters = draw.between(1, 20);
  c.expert_format = draw.one_of({WeightFormat::fp4, WeightFormat::fp8, WeightFormat::bf16});
  c.weight_format = draw.one_of({WeightFormat::fp8, WeightFormat::bf16});
  const bool fp4 = c.expert_format == WeightFormat::fp4;
  c.dim = fp4 ? 32 * draw.between(1, 5) : draw.between(20, 140);
  c.moe_inter_dim = fp4 ? 32 : draw.between(9, 40);
  c.rope_head_dim = 2 * draw.between(1, 4);
  c.head_dim = c.rope_head_dim + draw.between(0, 20);
  c.o_groups = draw.between(1, 3);
  c.n_heads = c.o_groups * draw.between(1, 3);
  c.q_lora_rank = draw.between(5, 40);
  c.o_lora_rank = draw.between(3, 60);
  c.window_size = draw.between(4, 16);
  c.rope_theta = 10000;
  c.compress_rope_theta = draw.one_of({40000.0, 160000.0});
  c.original_seq_len = draw.one_of<std::int64_t>({0, 16, 64, 4096});
  c.rope_factor = draw.one_of({4.0, 16.0});
  c.index_n_heads = draw.between(1, 5);
  c.index_head_dim = draw.one_of<std::int64_t>({8, 16, 32});
  c.index_topk = draw.between(1, 9);
  c.n_routed_experts = draw.between(3, 12);
  c.n_activated_experts = draw.between(1, 3);
  c.route_scale = draw.one_of({1.0, 1.5, 2.5});
  c.swiglu_limit = draw.one_of({0.0, 1.0, 10.0});
  c.compress_ratios = {4, hca_ratio};
  for (auto extra = draw.between(0, 2); extra > 0; --extra) {
    c.compress_ratios.insert(c.compress_ratios.begin() + draw.between(0, 2),
                             draw.one_of<std::int64_t>({0, 4, hca_ratio}));
  }
  c.n_layers = std::ssize(c.compress_ratios);
  c.n_mtp_layers = draw.between(0, 2);
  for (std::int64_t j = 0; j < c.n_mtp_layers; ++j)
    c.compress_ratios.push_back(j == 0 ? 0 : draw.one_of<std::int64_t>({0, 4, hca_ratio}));
  c.n_hash_layers = draw.between(0, 2);
  return c;
}

inline std::string describe(const ModelConfig& c) {
  std::string text = "dim " + std::to_string(c.dim) + ", heads " + std::to_string(c.n_heads) +
                     ", streams " + std::to_string(c.hc_mult) + ", window " +
                     std::to_string(c.window_size) + ", ratios";
  for (const std::int64_t r : c.compress_ratios) text += " " + std::to_string(r);
  return text;
}

}  // namespace dsv4::testing
