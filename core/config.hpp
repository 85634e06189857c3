// SPDX-License-Identifier: Apache-2.0
// The model's hyperparameters, read from the official config.json (Hugging Face spelling) or
// inference/config.json (official code's spelling). Field names are those of the official
// ModelArgs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4 {

enum class WeightFormat { bf16, fp8, fp4 };

struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t dim = 0;            // d
  std::int64_t n_layers = 0;       // backbone layers, MTP blocks not counted
  std::int64_t n_hash_layers = 0;  // the first layers, routed by token id
  std::int64_t n_mtp_layers = 0;
  std::int64_t n_heads = 0;        // h
  std::int64_t head_dim = 0;       // c
  std::int64_t rope_head_dim = 0;  // the last dims of a head that are rotated
  std::int64_t q_lora_rank = 0;    // q
  std::int64_t o_groups = 0;       // g
  std::int64_t o_lora_rank = 0;    // r
  std::int64_t window_size = 0;
  std::vector<std::int64_t> compress_ratios;  // one per layer, MTP blocks appended; 0 = window only
  double rope_theta = 0;                      // ratio 0
  double compress_rope_theta = 0;             // every other ratio
  std::int64_t original_seq_len = 0;          // YaRN; 0 = off
  double rope_factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  std::int64_t index_n_heads = 0;     // i
  std::int64_t index_head_dim = 0;    // j
  std::int64_t index_topk = 0;        // k
  std::int64_t moe_inter_dim = 0;     // f
  std::int64_t n_routed_experts = 0;  // x
  std::int64_t n_shared_experts = 1;
  std::int64_t n_activated_experts = 0;  // a
  double route_scale = 1;
  double swiglu_limit = 0;   // 0 = no clamp
  std::int64_t hc_mult = 0;  // n
  std::int64_t hc_sinkhorn_iters = 0;
  double hc_eps = 1e-6;
  double norm_eps = 1e-6;
  WeightFormat weight_format = WeightFormat::fp8;  // attention, shared experts, MTP projections
  WeightFormat expert_format = WeightFormat::fp8;  // routed experts
  bool backbone_only = false;  // the config names parts we do not model (dspark_*): no MTP

  // Ratio of block `layer`, where layers n_layers, n_layers+1, … are the MTP blocks.
  std::int64_t ratio(std::int64_t layer) const {
    return compress_ratios[static_cast<std::size_t>(layer)];
  }
  // Overlapping groups and the lightning indexer both come with ratio 4, and only with it.
  static bool overlaps(std::int64_t ratio) { return ratio == 4; }
  bool hash_routed(std::int64_t layer) const { return layer < n_hash_layers; }
  std::int64_t mix_size() const { return (2 + hc_mult) * hc_mult; }
};

struct ParsedConfig {
  ModelConfig config;
  std::vector<std::string> warnings;  // unknown fields, parts that are not covered
  bool expert_dtype_given = true;     // early Flash configs lack it although their experts are FP4
};

// Throws ConfigError: a missing field, two spellings that disagree, a value the model cannot have.
ParsedConfig parse_config(std::string_view json_text, std::string_view where);
ParsedConfig read_config(const std::filesystem::path& file);
// The rules between fields (sizes, divisibility, lengths). parse_config has called it already.
void check_config(const ModelConfig& config, std::string_view where);

}  // namespace dsv4
