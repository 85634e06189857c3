// SPDX-License-Identifier: Apache-2.0
#include "cli/plan.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace dsv4::cli {
namespace {

double real(std::int64_t n) { return static_cast<double>(n); }

// Compressed rows that exist after `context` tokens.
std::int64_t entries(std::int64_t ratio, std::int64_t context) {
  return ratio > 0 ? context / ratio : 0;
}

double cache_bytes(const ModelConfig& c, std::int64_t ratio, std::int64_t context) {
  const std::int64_t index_width = ModelConfig::overlaps(ratio) ? c.index_head_dim : 0;
  return sizeof(Real) * (real(std::min(context, c.window_size)) * real(c.head_dim) +
                         real(entries(ratio, context)) * real(c.head_dim + index_width));
}

// Multiply-adds of the attention sublayer: projections, compressors, index scores, softmax entries.
double attention_macs(const ModelConfig& c, std::int64_t ratio, std::int64_t context) {
  double macs =
      real(c.dim) * real(c.q_lora_rank) + real(c.q_lora_rank) * real(c.n_heads * c.head_dim) +
      real(c.dim) * real(c.head_dim) + real(c.n_heads * c.head_dim) * real(c.o_lora_rank) +
      real(c.o_groups * c.o_lora_rank) * real(c.dim);
  std::int64_t chosen = entries(ratio, context);
  if (ratio > 0)
    macs += 2 * real(c.dim) * real(c.head_dim) * (ModelConfig::overlaps(ratio) ? 2 : 1);
  if (ModelConfig::overlaps(ratio)) {
    const double width = real(c.index_n_heads * c.index_head_dim);
    macs += real(c.q_lora_rank) * width + real(c.dim) * real(c.index_n_heads) +
            4 * real(c.dim) * real(c.index_head_dim);
    macs += width * real(chosen);
    chosen = std::min(chosen, c.index_topk);
  }
  return macs + 2 * real(c.n_heads * c.head_dim) * real(chosen + std::min(context, c.window_size));
}

double block_macs(const ModelConfig& c, std::int64_t ratio, std::int64_t context) {
  const double experts =
      real(c.n_activated_experts + c.n_shared_experts) * 3 * real(c.dim) * real(c.moe_inter_dim);
  const double streams = 2 * real(c.mix_size()) * real(c.hc_mult * c.dim);
  return attention_macs(c, ratio, context) + experts + real(c.dim) * real(c.n_routed_experts) +
         streams;
}

}  // namespace

std::string layer_type(const ModelConfig& config, std::int64_t block) {
  const std::int64_t ratio = config.ratio(block);
  return ratio == 0 ? "window" : ModelConfig::overlaps(ratio) ? "CSA" : "HCA";
}

std::vector<BlockCost> plan(const Checkpoint& model, std::int64_t context) {
  const ModelConfig& c = model.config();
  std::vector<BlockCost> costs;
  for (std::int64_t b = 0; b < c.n_layers + c.n_mtp_layers; ++b) {
    const bool mtp = b >= c.n_layers;
    BlockCost cost;
    cost.name = mtp ? fmt::format("mtp.{}", b - c.n_layers) : fmt::format("layers.{}", b);
    cost.type = layer_type(c, b);
    cost.cache_bytes = cache_bytes(c, c.ratio(b), context);
    const double projections =
        mtp ? real(c.hc_mult + 1) * real(c.dim) * real(c.dim) + real(c.vocab_size) * real(c.dim)
            : 0;
    cost.flops = 2 * (block_macs(c, c.ratio(b), context) + projections);
    costs.push_back(cost);
  }
  BlockCost rest{"embed and head", "-", 0, 0, 0, 2 * real(c.vocab_size) * real(c.dim)};
  std::vector<std::uint64_t> expert_bytes(costs.size() + 1, 0);
  for (const auto& entry : model.tensors()) {
    const std::string& name = entry.first;
    const TensorView& tensor = entry.second;
    const auto owner = std::ranges::find_if(
        costs, [&](const BlockCost& b) { return name.starts_with(b.name + "."); });
    BlockCost& cost = owner == costs.end() ? rest : *owner;
    cost.weight_bytes += tensor.bytes.size();
    const bool expert = name.find(".ffn.experts.") != std::string::npos;
    // One row of the embedding and of a hash table is read, the rest of them is not.
    const bool looked_up = name == "embed.weight" || name.ends_with("tid2eid");
    if (expert)
      expert_bytes[static_cast<std::size_t>(owner - costs.begin())] += tensor.bytes.size();
    if (!expert && !looked_up) cost.touched_bytes += tensor.bytes.size();
  }
  for (std::size_t b = 0; b < costs.size(); ++b) {
    const double share =
        real(c.n_activated_experts) / real(std::max<std::int64_t>(c.n_routed_experts, 1));
    costs[b].touched_bytes +=
        static_cast<std::uint64_t>(static_cast<double>(expert_bytes[b]) * share);
  }
  costs.push_back(rest);
  return costs;
}

}  // namespace dsv4::cli
