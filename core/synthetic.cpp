// SPDX-License-Identifier: Apache-2.0
// Presets, sharding and the files of a synthetic checkpoint. The numbers are synthetic_weights.cpp.
#include "core/synthetic.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

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

std::uint64_t byte_count(const TensorSpec& t) {
  std::uint64_t n = size_of(t.dtype);
  for (const std::int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
  return n;
}

// In the order of the manifest, a new shard whenever the next tensor would not fit.
std::vector<std::vector<TensorSpec>> shard(const std::vector<TensorSpec>& tensors,
                                           std::uint64_t limit) {
  std::vector<std::vector<TensorSpec>> out(1);
  std::uint64_t used = 0;
  for (const TensorSpec& t : tensors) {
    if (used > 0 && used + byte_count(t) > limit) {
      out.emplace_back();
      used = 0;
    }
    out.back().push_back(t);
    used += byte_count(t);
  }
  return out;
}

// A directory that is renamed into place by commit(), and removed without it.
class NewDirectory {
 public:
  explicit NewDirectory(const fs::path& target) : target_(target) {
    std::error_code error;
    if (fs::exists(target, error) &&
        (!fs::is_directory(target, error) || !fs::is_empty(target, error))) {
      throw UsageError(
          fmt::format("{}: exists and is not empty", target.string()),
          "name another directory, or remove this one first: nothing is ever overwritten");
    }
    fs::path plain = target.has_filename() ? target : target.parent_path();  // "dir/" -> "dir"
    temporary_ = plain.string() + fmt::format(".{}.tmp", ::getpid());
    fs::create_directories(temporary_, error);
    if (error) {
      throw IoError(fmt::format("{}: cannot be created: {}", temporary_.string(), error.message()));
    }
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(temporary_, ignored);
  }

  const fs::path& path() const { return temporary_; }

  void commit() {
    std::error_code error;
    fs::remove(target_, error);  // an empty directory of that name
    fs::rename(temporary_, target_, error);
    if (error) {
      throw IoError(
          fmt::format("{}: cannot be renamed into place: {}", target_.string(), error.message()));
    }
    committed_ = true;
  }

 private:
  fs::path target_;
  fs::path temporary_;
  bool committed_ = false;
};

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

SyntheticReport write_synthetic_checkpoint(const json& config_json, const fs::path& dir,
                                           const SyntheticOptions& options) {
  const std::string text = config_json.dump(2) + "\n";
  const ModelConfig config = parse_config(text, "config").config;
  const std::vector<TensorSpec> tensors = manifest(config);
  SyntheticReport report;
  report.tensors = tensors.size();
  for (const TensorSpec& t : tensors) report.bytes += byte_count(t);

  NewDirectory out(dir);
  const SyntheticWeights weights(config, options.seed, options.ties);
  const auto shards = shard(tensors, options.shard_bytes);
  report.shards = shards.size();
  std::uint64_t done = 0;
  const auto fill = [&](const TensorSpec& t, std::span<std::byte> bytes, std::size_t offset) {
    weights.fill(t, bytes, offset);
    done += bytes.size();
    if (options.progress) options.progress(done, report.bytes);
  };
  json index = {{"metadata", {{"total_size", report.bytes}}}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(out.path() / file, shards[i], fill);
    for (const TensorSpec& t : shards[i]) index["weight_map"][t.name] = file;
  }
  write_text_file(out.path() / "config.json", text);
  write_text_file(out.path() / "model.safetensors.index.json", index.dump(2) + "\n");
  out.commit();
  return report;
}

}  // namespace dsv4
