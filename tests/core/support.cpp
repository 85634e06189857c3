// SPDX-License-Identifier: Apache-2.0
#include "core/support.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "core/rng.hpp"
#include "core/safetensors.hpp"

namespace dsv4::testing {
namespace fs = std::filesystem;
using nlohmann::json;

ScratchDir::ScratchDir() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = std::string("dsv4_") + info->test_suite_name() + "." + info->name();
  std::ranges::replace(name, '/', '_');
  path_ = fs::temp_directory_path() / (name + "." + std::to_string(::getpid()));
  fs::remove_all(path_);
  fs::create_directories(path_);
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

json small_config() {
  return json::parse(R"({
    "model_type": "deepseek_v4", "vocab_size": 48, "hidden_size": 64, "num_hidden_layers": 5,
    "num_hash_layers": 2, "num_nextn_predict_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 48, "qk_rope_head_dim": 16, "q_lora_rank": 40, "o_groups": 2,
    "o_lora_rank": 24, "sliding_window": 8, "compress_ratios": [0, 128, 4, 128, 4, 0],
    "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 4096,
                     "beta_fast": 32, "beta_slow": 1},
    "index_n_heads": 3, "index_head_dim": 32, "index_topk": 5, "moe_intermediate_size": 32,
    "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": true,
    "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": false,
    "tie_word_embeddings": false, "expert_dtype": "fp4",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})");
}

json small_inference_config() {
  return json::parse(R"({
    "vocab_size": 48, "dim": 64, "moe_inter_dim": 32, "n_layers": 5, "n_hash_layers": 2, "n_heads": 4,
    "n_routed_experts": 6, "n_shared_experts": 1, "n_activated_experts": 2,
    "score_func": "sqrtsoftplus", "route_scale": 1.5, "swiglu_limit": 10.0, "q_lora_rank": 40,
    "head_dim": 48, "rope_head_dim": 16, "o_groups": 2, "o_lora_rank": 24, "window_size": 8,
    "original_seq_len": 4096, "rope_theta": 10000, "rope_factor": 16, "beta_fast": 32, "beta_slow": 1,
    "index_n_heads": 3, "index_head_dim": 32, "index_topk": 5, "hc_mult": 4, "hc_sinkhorn_iters": 20,
    "dtype": "fp8", "scale_fmt": "ue8m0", "expert_dtype": "fp4", "compress_rope_theta": 160000,
    "compress_ratios": [0, 128, 4, 128, 4, 0]})");
}

namespace {

std::size_t byte_count(const TensorSpec& t) {
  std::size_t n = size_of(t.dtype);
  for (const std::int64_t d : t.shape) n *= static_cast<std::size_t>(d);
  return n;
}

// Bytes that are legal in every dtype: small codes for E4M3 and E8M0, ids 0..5 for the hash tables.
std::vector<std::byte> make_bytes(const TensorSpec& t) {
  std::vector<std::byte> out(byte_count(t));
  const Rng rng(7, t.name);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t bits = rng.bits(i);
    const bool scale = t.dtype == DType::F8_E8M0;
    if (t.dtype == DType::I64) {
      out[i] = static_cast<std::byte>(i % 8 == 0 ? bits % 6 : 0);
    } else {
      out[i] = static_cast<std::byte>(scale ? 118 + bits % 5 : bits % 0x60);
    }
  }
  return out;
}

}  // namespace

SmallCheckpoint::SmallCheckpoint()
    : tensors(manifest(parse_config(small_config().dump(), "small").config)) {
  for (const TensorSpec& t : tensors) bytes[t.name] = make_bytes(t);
}

TensorSpec& SmallCheckpoint::spec(const std::string& name) {
  return *std::ranges::find(tensors, name, &TensorSpec::name);
}

void SmallCheckpoint::erase(const std::string& name) {
  std::erase_if(tensors, [&](const TensorSpec& t) { return t.name == name; });
}

void SmallCheckpoint::resize(const std::string& name, DType dtype,
                             std::vector<std::int64_t> shape) {
  TensorSpec& t = spec(name);
  t.dtype = dtype;
  t.shape = std::move(shape);
  bytes[name] = make_bytes(t);
}

void SmallCheckpoint::write(const fs::path& dir, bool sharded) const {
  write_file(dir / "config.json", config.dump(2));
  const auto fill = [this](const TensorSpec& t, std::span<std::byte> out, std::size_t offset) {
    std::memcpy(out.data(), bytes.at(t.name).data() + offset, out.size());
  };
  if (!sharded) {
    write_safetensors(dir / "model.safetensors", tensors, fill);
    return;
  }
  const auto middle = tensors.begin() + static_cast<std::ptrdiff_t>(tensors.size() / 2);
  const std::map<std::string, std::vector<TensorSpec>> shards = {
      {"model-00001-of-00002.safetensors", {tensors.begin(), middle}},
      {"model-00002-of-00002.safetensors", {middle, tensors.end()}}};
  json index;
  for (const auto& [file, part] : shards) {
    write_safetensors(dir / file, part, fill);
    for (const TensorSpec& t : part) index["weight_map"][t.name] = file;
  }
  write_file(dir / "model.safetensors.index.json", index.dump(2));
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string safetensors_bytes(const std::string& header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + header + std::string(data);
}

}  // namespace dsv4::testing
