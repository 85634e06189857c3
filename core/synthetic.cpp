// SPDX-License-Identifier: Apache-2.0
// Presets of a synthetic checkpoint. The numbers are synthetic_weights.cpp.
#include "core/synthetic.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "core/embedded.hpp"
#include "core/error.hpp"
#include "core/file_writer.hpp"
#include "core/safetensors.hpp"

namespace dsv4 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Sizes that differ from each other and from the real model's, so that no two axes can be mixed up
// unnoticed; what the official kernels demand holds: inputs of FP8 products are multiples of 128,
// head_dim - qk_rope_head_dim of 64, index_head_dim of 32.
constexpr std::string_view kTiny = R"({
  "vocab_size": 200, "hidden_size": 256, "num_hidden_layers": 5, "num_hash_layers": 2,
  "num_attention_heads": 6, "head_dim": 160, "qk_rope_head_dim": 32, "q_lora_rank": 384, "o_groups": 3,
  "o_lora_rank": 128, "sliding_window": 32, "compress_ratios": [0, 128, 4, 128, 4, 0],
  "index_n_heads": 3, "index_head_dim": 64, "index_topk": 7, "moe_intermediate_size": 256,
  "n_routed_experts": 8, "num_experts_per_tok": 3, "swiglu_limit": 1.0, "hc_mult": 3,
  "hc_sinkhorn_iters": 12, "rope_scaling": {"original_max_position_embeddings": 256, "factor": 8}
})";

// Real sizes where kernels specialise (heads, RoPE, index, window), small ones elsewhere.
constexpr std::string_view kEngine = R"({
  "vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 5, "num_hash_layers": 2,
  "num_attention_heads": 8, "q_lora_rank": 384, "o_groups": 4, "o_lora_rank": 128,
  "compress_ratios": [0, 128, 4, 128, 4, 0], "index_n_heads": 16, "index_topk": 64,
  "moe_intermediate_size": 256, "n_routed_experts": 16, "num_experts_per_tok": 4
})";

// One layer of true size; what does not belong to a layer is small.
constexpr std::string_view kLayer = R"({
  "vocab_size": 1024, "num_hidden_layers": 1, "num_hash_layers": 0, "num_nextn_predict_layers": 0,
  "compress_ratios": [4], "n_routed_experts": 16
})";

json patched(std::string_view base, std::string_view patch) {
  json out = json::parse(official_config(base));
  out.merge_patch(json::parse(patch));
  return out;
}

}  // namespace

const std::vector<std::string_view>& synthetic_presets() {
  static const std::vector<std::string_view> names = {"tiny", "engine", "flash-layer", "pro-layer"};
  return names;
}

json synthetic_preset(std::string_view name) {
  if (name == "tiny") return patched("flash", kTiny);
  if (name == "engine") return patched("flash", kEngine);
  if (name == "flash-layer") return patched("flash", kLayer);
  if (name == "pro-layer") return patched("pro", kLayer);
  throw UsageError(fmt::format("unknown preset \"{}\"", name),
                   fmt::format("presets: {}", fmt::join(synthetic_presets(), ", ")));
}

WrittenCheckpoint write_synthetic_checkpoint(const json& config_json, const fs::path& dir,
                                             const SyntheticOptions& options) {
  const std::string text = config_json.dump(2) + "\n";
  const ModelConfig config = parse_config(text, "config").config;
  const SyntheticWeights weights(config, options.seed, options.ties);
  const auto fill = [&](const TensorSpec& t, std::span<std::byte> bytes, std::size_t offset) {
    weights.fill(t, bytes, offset);
  };
  return write_checkpoint(text, manifest(config), dir, fill,
                          {options.shard_bytes, options.progress});
}

}  // namespace dsv4
