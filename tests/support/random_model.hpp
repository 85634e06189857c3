// SPDX-License-Identifier: Apache-2.0
// Small models for tests: a config as JSON, seeded random weights of every tensor in memory (so
// that a test can change them), written as a checkpoint in the official layout and opened again.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/config.hpp"
#include "core/manifest.hpp"
#include "core/rng.hpp"
#include "core/safetensors.hpp"
#include "core/synthetic.hpp"
#include "core/weights.hpp"
#include "reference/model.hpp"

namespace dsv4::testing {

inline std::string format_name(WeightFormat format) {
  if (format == WeightFormat::bf16) return "bf16";
  return format == WeightFormat::fp8 ? "fp8" : "fp4";
}

// inference/config.json of a config.
inline std::string config_json(const ModelConfig& c) {
  const nlohmann::json json = {{"vocab_size", c.vocab_size},
                               {"dim", c.dim},
                               {"n_layers", c.n_layers},
                               {"n_hash_layers", c.n_hash_layers},
                               {"n_mtp_layers", c.n_mtp_layers},
                               {"n_heads", c.n_heads},
                               {"head_dim", c.head_dim},
                               {"rope_head_dim", c.rope_head_dim},
                               {"q_lora_rank", c.q_lora_rank},
                               {"o_groups", c.o_groups},
                               {"o_lora_rank", c.o_lora_rank},
                               {"window_size", c.window_size},
                               {"compress_ratios", c.compress_ratios},
                               {"rope_theta", c.rope_theta},
                               {"compress_rope_theta", c.compress_rope_theta},
                               {"original_seq_len", c.original_seq_len},
                               {"rope_factor", c.rope_factor},
                               {"beta_fast", c.beta_fast},
                               {"beta_slow", c.beta_slow},
                               {"index_n_heads", c.index_n_heads},
                               {"index_head_dim", c.index_head_dim},
                               {"index_topk", c.index_topk},
                               {"moe_inter_dim", c.moe_inter_dim},
                               {"n_routed_experts", c.n_routed_experts},
                               {"n_shared_experts", c.n_shared_experts},
                               {"n_activated_experts", c.n_activated_experts},
                               {"score_func", "sqrtsoftplus"},
                               {"route_scale", c.route_scale},
                               {"swiglu_limit", c.swiglu_limit},
                               {"hc_mult", c.hc_mult},
                               {"hc_sinkhorn_iters", c.hc_sinkhorn_iters},
                               {"hc_eps", c.hc_eps},
                               {"norm_eps", c.norm_eps},
                               {"dtype", format_name(c.weight_format)},
                               {"scale_fmt", "ue8m0"},
                               {"expert_dtype", format_name(c.expert_format)}};
  return json.dump(2);
}

// A model of four layers (window, HCA, CSA, HCA) and an MTP block. No two axes have one size; FP8
// matrices have several scale blocks with ragged edges, experts are FP4.
inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 50;
  c.dim = 160;
  c.n_layers = 4;
  c.n_hash_layers = 1;
  c.n_mtp_layers = 1;
  c.n_heads = 6;
  c.head_dim = 24;
  c.rope_head_dim = 8;
  c.q_lora_rank = 36;
  c.o_groups = 3;
  c.o_lora_rank = 44;
  c.window_size = 7;
  c.compress_ratios = {0, 8, 4, 16, 0};
  c.rope_theta = 10000;
  c.compress_rope_theta = 160000;
  c.original_seq_len = 64;
  c.rope_factor = 16;
  c.beta_fast = 32;
  c.beta_slow = 1;
  c.index_n_heads = 5;
  c.index_head_dim = 16;
  c.index_topk = 3;
  c.moe_inter_dim = 32;
  c.n_routed_experts = 9;
  c.n_activated_experts = 2;
  c.route_scale = 1.5;
  c.swiglu_limit = 2;
  c.hc_mult = 4;
  c.hc_sinkhorn_iters = 20;
  c.weight_format = WeightFormat::fp8;
  c.expert_format = WeightFormat::fp4;
  return c;
}

// Every tensor of a checkpoint, as bytes.
struct RandomTensors {
  RandomTensors(const ModelConfig& c, std::uint64_t seed) : config(c) {
    const SyntheticWeights weights(config, seed, false);
    for (const TensorSpec& spec : manifest(config)) {
      std::size_t size = size_of(spec.dtype);
      for (const std::int64_t extent : spec.shape) size *= static_cast<std::size_t>(extent);
      auto& tensor = bytes[spec.name];
      tensor.resize(size);
      weights.fill(spec, tensor, 0);
    }
  }

  ModelConfig config;
  std::map<std::string, std::vector<std::byte>> bytes;
};

// The checkpoint of some tensors and the model on it. The files are removed once they are mapped.
class LoadedModel {
 public:
  explicit LoadedModel(const RandomTensors& t) : checkpoint(write_and_open(t)), model(checkpoint) {}
  LoadedModel(const ModelConfig& config, std::uint64_t seed)
      : LoadedModel(RandomTensors(config, seed)) {}
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;
  ~LoadedModel() = default;

  const ModelConfig& config() const { return checkpoint.config(); }

  const Checkpoint checkpoint;
  const reference::Model model;

 private:
  static Checkpoint write_and_open(const RandomTensors& t) {
    namespace fs = std::filesystem;
    static int count = 0;
    const fs::path dir = fs::temp_directory_path() / ("dsv4_model." + std::to_string(::getpid()) +
                                                      "." + std::to_string(count++));
    fs::create_directories(dir);
    std::ofstream(dir / "config.json") << config_json(t.config);
    write_safetensors(dir / "model.safetensors", manifest(t.config),
                      [&](const TensorSpec& spec, std::span<std::byte> out, std::size_t offset) {
                        std::memcpy(out.data(), t.bytes.at(spec.name).data() + offset, out.size());
                      });
    Checkpoint opened = Checkpoint::open(dir);
    fs::remove_all(dir);
    return opened;
  }
};

inline reference::ForwardOptions with_mtp() {
  reference::ForwardOptions options;
  options.mtp = true;
  return options;
}

inline reference::ForwardOptions up_to(std::int64_t layer) {
  reference::ForwardOptions options;
  options.last_layer = layer;
  return options;
}

inline std::vector<std::int32_t> random_ids(const ModelConfig& config, std::size_t count,
                                            std::uint64_t seed) {
  const Rng rng(seed, "ids");
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i)
    ids[i] = static_cast<std::int32_t>(rng.bits(i) % static_cast<std::uint64_t>(config.vocab_size));
  return ids;
}

}  // namespace dsv4::testing
