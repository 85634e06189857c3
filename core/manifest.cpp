// SPDX-License-Identifier: Apache-2.0
#include "core/manifest.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <initializer_list>
#include <utility>

namespace dsv4 {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Collects the tensors below one prefix.
class Builder {
 public:
  Builder(const ModelConfig& config, std::string prefix, std::vector<TensorSpec>& out)
      : config_(config), prefix_(std::move(prefix)), out_(out) {}

  void add(std::string_view leaf, DType dtype, std::initializer_list<std::int64_t> shape) {
    out_.push_back({prefix_ + std::string(leaf), dtype, shape});
  }

  void norm(std::string_view stem, std::int64_t size) {
    add(fmt::format("{}.weight", stem), DType::BF16, {size});
  }

  void bf16(std::string_view stem, std::int64_t rows, std::int64_t cols) {
    add(fmt::format("{}.weight", stem), DType::BF16, {rows, cols});
  }

  // A linear layer in the model's weight format, W [rows, cols] = [out, in].
  void linear(std::string_view stem, std::int64_t rows, std::int64_t cols, WeightFormat format) {
    switch (format) {
      case WeightFormat::bf16:
        bf16(stem, rows, cols);
        break;
      case WeightFormat::fp8:
        add(fmt::format("{}.weight", stem), DType::F8_E4M3, {rows, cols});
        add(fmt::format("{}.scale", stem), DType::F8_E8M0,
            {ceil_div(rows, 128), ceil_div(cols, 128)});
        break;
      case WeightFormat::fp4:
        add(fmt::format("{}.weight", stem), DType::I8, {rows, cols / 2});
        add(fmt::format("{}.scale", stem), DType::F8_E8M0, {rows, cols / 32});
        break;
    }
  }

  void hyper_connection(std::string_view stem, std::int64_t mixes, std::int64_t scales) {
    add(fmt::format("{}_fn", stem), DType::F32, {mixes, config_.hc_mult * config_.dim});
    add(fmt::format("{}_base", stem), DType::F32, {mixes});
    add(fmt::format("{}_scale", stem), DType::F32, {scales});
  }

  void compressor(std::string_view stem, std::int64_t ratio, std::int64_t head_dim) {
    const std::int64_t width = ModelConfig::overlaps(ratio) ? 2 * head_dim : head_dim;
    add(fmt::format("{}.ape", stem), DType::F32, {ratio, width});
    bf16(fmt::format("{}.wkv", stem), width, config_.dim);
    bf16(fmt::format("{}.wgate", stem), width, config_.dim);
    norm(fmt::format("{}.norm", stem), head_dim);
  }

  void attention(std::int64_t ratio) {
    const ModelConfig& c = config_;
    const std::int64_t heads = c.n_heads * c.head_dim;
    add("attn.attn_sink", DType::F32, {c.n_heads});
    linear("attn.wq_a", c.q_lora_rank, c.dim, c.weight_format);
    norm("attn.q_norm", c.q_lora_rank);
    linear("attn.wq_b", heads, c.q_lora_rank, c.weight_format);
    linear("attn.wkv", c.head_dim, c.dim, c.weight_format);
    norm("attn.kv_norm", c.head_dim);
    linear("attn.wo_a", c.o_groups * c.o_lora_rank, heads / c.o_groups, c.weight_format);
    linear("attn.wo_b", c.dim, c.o_groups * c.o_lora_rank, c.weight_format);
    if (ratio != 0) compressor("attn.compressor", ratio, c.head_dim);
    if (ModelConfig::overlaps(ratio)) {
      linear("attn.indexer.wq_b", c.index_n_heads * c.index_head_dim, c.q_lora_rank,
             c.weight_format);
      bf16("attn.indexer.weights_proj", c.index_n_heads, c.dim);
      compressor("attn.indexer.compressor", ratio, c.index_head_dim);
    }
  }

  void expert(std::string_view stem, WeightFormat format) {
    linear(fmt::format("{}.w1", stem), config_.moe_inter_dim, config_.dim, format);
    linear(fmt::format("{}.w2", stem), config_.dim, config_.moe_inter_dim, format);
    linear(fmt::format("{}.w3", stem), config_.moe_inter_dim, config_.dim, format);
  }

  void experts(bool hash_routed) {
    const ModelConfig& c = config_;
    bf16("ffn.gate", c.n_routed_experts, c.dim);
    if (hash_routed) {
      add("ffn.gate.tid2eid", DType::I64, {c.vocab_size, c.n_activated_experts});
    } else {
      add("ffn.gate.bias", DType::F32, {c.n_routed_experts});
    }
    for (std::int64_t e = 0; e < c.n_routed_experts; ++e) {
      expert(fmt::format("ffn.experts.{}", e), c.expert_format);
    }
    expert("ffn.shared_experts", c.weight_format);
  }

  void block(std::int64_t layer) {
    hyper_connection("hc_attn", config_.mix_size(), 3);
    norm("attn_norm", config_.dim);
    attention(config_.ratio(layer));
    hyper_connection("hc_ffn", config_.mix_size(), 3);
    norm("ffn_norm", config_.dim);
    experts(config_.hash_routed(layer));
  }

  void mtp_extras() {
    norm("enorm", config_.dim);
    norm("hnorm", config_.dim);
    linear("e_proj", config_.dim, config_.dim, config_.weight_format);
    linear("h_proj", config_.dim, config_.dim, config_.weight_format);
    hyper_connection("hc_head", config_.hc_mult, 1);
    norm("norm", config_.dim);
  }

 private:
  const ModelConfig& config_;
  std::string prefix_;
  std::vector<TensorSpec>& out_;
};

}  // namespace

std::vector<TensorSpec> block_manifest(const ModelConfig& config, std::int64_t layer,
                                       std::string_view prefix) {
  std::vector<TensorSpec> out;
  Builder builder(config, fmt::format("{}.", prefix), out);
  if (layer >= config.n_layers) builder.mtp_extras();
  builder.block(layer);
  return out;
}

std::vector<TensorSpec> model_manifest(const ModelConfig& config) {
  std::vector<TensorSpec> out;
  Builder builder(config, "", out);
  builder.bf16("embed", config.vocab_size, config.dim);
  builder.hyper_connection("hc_head", config.hc_mult, 1);
  builder.norm("norm", config.dim);
  builder.bf16("head", config.vocab_size, config.dim);
  return out;
}

std::string block_prefix(const ModelConfig& config, std::int64_t layer) {
  return layer < config.n_layers ? fmt::format("layers.{}", layer)
                                 : fmt::format("mtp.{}", layer - config.n_layers);
}

std::vector<TensorSpec> manifest(const ModelConfig& config) {
  std::vector<TensorSpec> out = model_manifest(config);
  const TensorSpec embed = out.front();
  out.erase(out.begin());
  std::vector<TensorSpec> all = {embed};
  std::vector<TensorSpec> mtp;
  for (std::int64_t layer = 0; layer < config.n_layers + config.n_mtp_layers; ++layer) {
    auto block = block_manifest(config, layer, block_prefix(config, layer));
    auto& target = layer < config.n_layers ? all : mtp;
    target.insert(target.end(), block.begin(), block.end());
  }
  all.insert(all.end(), out.begin(), out.end());
  all.insert(all.end(), mtp.begin(), mtp.end());
  return all;
}

std::string to_string(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace dsv4
