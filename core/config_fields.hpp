// SPDX-License-Identifier: Apache-2.0
// The table of config fields in both spellings, private to config.cpp.
#pragma once

#include <array>
#include <string_view>

#include "core/config.hpp"

namespace dsv4::detail {

// Whether a field may be absent, and what it is then.
enum class Absent {
  error,              // both official files have it
  default_inference,  // the official inference/config.json relies on ModelArgs' default
  default_always,     // absent means off
};

struct IntField {
  std::string_view inference;  // name in inference/config.json, "" if it has none
  std::string_view hf;         // name in the root config.json, dots for nesting
  std::int64_t ModelConfig::*member;
  std::int64_t least;
  std::int64_t most;
  Absent absent = Absent::error;
  std::int64_t fallback = 0;
};

struct RealField {
  std::string_view inference;
  std::string_view hf;
  double ModelConfig::*member;
  bool may_be_zero;
  Absent absent = Absent::error;
  double fallback = 0;
};

// A field with one value that the model covers.
struct FixedField {
  std::string_view key;
  std::string_view value;  // as JSON text
  bool required_hf;        // the root config.json must state it
};

// Sizes above these are not models but typing errors; the caps also keep every product below 2^63.
inline constexpr std::int64_t kMostWidth = std::int64_t{1} << 20;
inline constexpr std::int64_t kMostLayers = 4096;
inline constexpr std::int64_t kMostExperts = std::int64_t{1} << 16;
inline constexpr std::int64_t kMostTokens = (std::int64_t{1} << 31) - 1;

using C = ModelConfig;

// clang-format off
inline constexpr std::array<IntField, 21> kInts = {{
    {"vocab_size", "vocab_size", &C::vocab_size, 1, kMostTokens},
    {"dim", "hidden_size", &C::dim, 1, kMostWidth},
    {"n_layers", "num_hidden_layers", &C::n_layers, 1, kMostLayers},
    {"n_hash_layers", "num_hash_layers", &C::n_hash_layers, 0, kMostLayers},
    {"n_mtp_layers", "num_nextn_predict_layers", &C::n_mtp_layers, 0, kMostLayers, Absent::default_inference, 1},
    {"n_heads", "num_attention_heads", &C::n_heads, 1, kMostWidth},
    {"head_dim", "head_dim", &C::head_dim, 1, kMostWidth},
    {"rope_head_dim", "qk_rope_head_dim", &C::rope_head_dim, 2, kMostWidth},
    {"q_lora_rank", "q_lora_rank", &C::q_lora_rank, 1, kMostWidth},
    {"o_groups", "o_groups", &C::o_groups, 1, kMostWidth},
    {"o_lora_rank", "o_lora_rank", &C::o_lora_rank, 1, kMostWidth},
    {"window_size", "sliding_window", &C::window_size, 1, kMostTokens},
    {"index_n_heads", "index_n_heads", &C::index_n_heads, 1, kMostWidth},
    {"index_head_dim", "index_head_dim", &C::index_head_dim, 1, kMostWidth},
    {"index_topk", "index_topk", &C::index_topk, 1, kMostTokens},
    {"moe_inter_dim", "moe_intermediate_size", &C::moe_inter_dim, 1, kMostWidth},
    {"n_routed_experts", "n_routed_experts", &C::n_routed_experts, 1, kMostExperts},
    {"n_shared_experts", "n_shared_experts", &C::n_shared_experts, 0, kMostExperts},
    {"n_activated_experts", "num_experts_per_tok", &C::n_activated_experts, 1, kMostExperts},
    {"hc_mult", "hc_mult", &C::hc_mult, 1, 1024},
    {"hc_sinkhorn_iters", "hc_sinkhorn_iters", &C::hc_sinkhorn_iters, 1, kMostWidth},
}};

inline constexpr std::array<RealField, 6> kReals = {{
    {"rope_theta", "rope_theta", &C::rope_theta, false},
    {"compress_rope_theta", "compress_rope_theta", &C::compress_rope_theta, false},
    {"route_scale", "routed_scaling_factor", &C::route_scale, false},
    {"swiglu_limit", "swiglu_limit", &C::swiglu_limit, true, Absent::default_always, 0},
    {"hc_eps", "hc_eps", &C::hc_eps, true, Absent::default_inference, 1e-6},
    {"norm_eps", "rms_norm_eps", &C::norm_eps, true, Absent::default_inference, 1e-6},
}};

// Read only when YaRN is on (the root config.json may have "rope_scaling": null).
inline constexpr IntField kYarnLength =
    {"original_seq_len", "rope_scaling.original_max_position_embeddings", &C::original_seq_len, 0, std::int64_t{1} << 40};
inline constexpr std::array<RealField, 3> kYarnReals = {{
    {"rope_factor", "rope_scaling.factor", &C::rope_factor, false},
    {"beta_fast", "rope_scaling.beta_fast", &C::beta_fast, false},
    {"beta_slow", "rope_scaling.beta_slow", &C::beta_slow, false},
}};

inline constexpr std::array<FixedField, 16> kFixed = {{
    {"num_key_value_heads", "1", true},
    {"scoring_func", "\"sqrtsoftplus\"", true},
    {"score_func", "\"sqrtsoftplus\"", false},
    {"topk_method", "\"noaux_tc\"", true},
    {"norm_topk_prob", "true", true},
    {"tie_word_embeddings", "false", false},
    {"attention_bias", "false", false},
    {"hidden_act", "\"silu\"", false},
    {"scale_dtype", "\"fp8\"", false},
    {"scale_fmt", "\"ue8m0\"", false},
    {"rope_scaling.type", "\"yarn\"", false},
    {"rope_scaling.rope_type", "\"yarn\"", false},
    {"quantization_config.quant_method", "\"fp8\"", false},
    {"quantization_config.fmt", "\"e4m3\"", false},
    {"quantization_config.scale_fmt", "\"ue8m0\"", false},
    {"quantization_config.activation_scheme", "\"dynamic\"", false},
}};

// Known, and without any effect on what the model computes.
inline constexpr std::array<std::string_view, 27> kIrrelevant = {
    "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout",
    "initializer_range", "max_position_embeddings", "torch_dtype", "transformers_version", "use_cache", "max_batch_size",
    "max_seq_len", "_name_or_path", "auto_map", "pretraining_tp", "output_router_logits", "router_aux_loss_coef",
    "aux_loss_alpha", "seq_aux", "ep_size", "rope_scaling", "quantization_config", "_from_model_config",
    "quantization_config.modules_to_not_convert", "router_jitter_noise", "chunk_size_feed_forward",
};

// Read by hand in config.cpp.
inline constexpr std::array<std::string_view, 4> kOther = {
    "compress_ratios", "expert_dtype", "dtype", "quantization_config.weight_block_size"};
// clang-format on

}  // namespace dsv4::detail
