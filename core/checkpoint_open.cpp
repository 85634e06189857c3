// SPDX-License-Identifier: Apache-2.0
// From a directory to an opened, checked Checkpoint.
#include <algorithm>
#include <fmt/format.h>
#include <set>

#include <nlohmann/json.hpp>

#include "core/checkpoint_check.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/text.hpp"
#include "core/weights.hpp"

namespace dsv4 {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::uint64_t kScanAtOpen = std::uint64_t{256} << 20;

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

WeightMap read_index(const fs::path& file) {
  nlohmann::json index;
  try {
    index = parse_json(read_text_file(file));
  } catch (const IoError&) {
    throw;
  } catch (const std::exception& e) {
    throw WeightError(fmt::format("{}: not valid JSON: {}", file.string(), e.what()));
  }
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw WeightError(fmt::format("{}: expected an object \"weight_map\"", file.string()));
  }
  WeightMap out;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const bool plain = shard.is_string() && !shard.get<std::string>().empty() &&
                       fs::path(shard.get<std::string>()).filename() == shard.get<std::string>();
    if (!plain) {
      throw WeightError(
          fmt::format("{}: tensor {}: expected the name of a file in the same directory, found {}",
                      file.string(), tensor, shard.dump()));
    }
    out[tensor] = shard.get<std::string>();
  }
  if (out.empty()) throw WeightError(fmt::format("{}: the weight_map is empty", file.string()));
  return out;
}

[[noreturn]] void missing_shard(const fs::path& dir, const std::string& shard,
                                const WeightMap& map) {
  std::size_t count = 0;
  std::string first;
  for (const auto& [tensor, file] : map) {
    if (file != shard) continue;
    if (count++ == 0) first = tensor;
  }
  throw WeightError(fmt::format("{}: missing shard {}, which should hold {} tensors ({}{})",
                                dir.string(), shard, count, first, count > 1 ? ", …" : ""),
                    "download it again, or correct model.safetensors.index.json");
}

void add_file(const fs::path& path, std::vector<SafetensorsFile>& files, FoundTensors& out) {
  files.emplace_back(path);
  for (const auto& [name, view] : files.back().tensors()) {
    const auto [it, inserted] = out.emplace(name, Found{view, path});
    if (!inserted) {
      throw WeightError(fmt::format("{}: tensor {} is also in {}", path.string(), name,
                                    it->second.file.filename().string()),
                        "two checkpoints in one directory?");
    }
  }
}

void check_index(const fs::path& file, const WeightMap& map, const FoundTensors& found) {
  for (const auto& [tensor, shard] : map) {
    const auto it = found.find(tensor);
    if (it == found.end()) {
      throw WeightError(fmt::format("{}: names tensor {} in {}, but no shard holds it",
                                    file.string(), tensor, shard),
                        nearest_hint(tensor, found));
    }
    if (it->second.file.filename() != shard) {
      throw WeightError(fmt::format("{}: tensor {}: expected in {}, found in {}", file.string(),
                                    tensor, shard, it->second.file.filename().string()));
    }
  }
}

std::vector<fs::path> safetensors_in(const fs::path& dir) {
  if (fs::exists(dir / "model.safetensors")) return {dir / "model.safetensors"};
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() == ".safetensors") out.push_back(entry.path());
  }
  std::ranges::sort(out);
  if (out.empty()) {
    throw WeightError(fmt::format("{}: no *.safetensors file", dir.string()),
                      "expected model.safetensors, or shards with model.safetensors.index.json");
  }
  return out;
}

void check_directory(const fs::path& dir) {
  std::error_code ignored;
  if (!fs::exists(dir, ignored)) {
    throw IoError(fmt::format("{}: no such directory", dir.string()),
                  "expected a checkpoint: config.json beside *.safetensors");
  }
  if (!fs::is_directory(dir, ignored)) {
    throw IoError(fmt::format("{}: expected a directory, found a file", dir.string()),
                  "name the directory that holds config.json");
  }
}

fs::path find_config(const fs::path& dir) {
  std::error_code ignored;
  if (fs::exists(dir / "config.json", ignored)) return dir / "config.json";
  const bool inner = fs::exists(dir / "inference" / "config.json", ignored);
  throw ConfigError(
      fmt::format("{}: no config.json", dir.string()),
      inner ? "there is an inference/config.json: copy it to config.json (both spellings are read)"
            : "expected a checkpoint: config.json beside *.safetensors");
}

// Early root configs of Flash said nothing of the experts' format although they were FP4.
void infer_expert_format(const FoundTensors& found, ParsedConfig& parsed) {
  if (parsed.expert_dtype_given) return;
  const auto it = found.find("layers.0.ffn.experts.0.w1.weight");
  if (it == found.end() || it->second.view.dtype != DType::I8) return;
  parsed.config.expert_format = WeightFormat::fp4;
  parsed.warnings.emplace_back(
      "config.json lacks \"expert_dtype\", but the routed experts are I8 (packed FP4): read as if "
      "it "
      "said \"expert_dtype\": \"fp4\"");
}

}  // namespace

FoundTensors open_files(const fs::path& dir, std::vector<SafetensorsFile>& files) {
  FoundTensors out;
  if (!fs::exists(dir / kIndex)) {
    for (const fs::path& file : safetensors_in(dir)) add_file(file, files, out);
    return out;
  }
  const WeightMap map = read_index(dir / kIndex);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map) shards.insert(shard);
  for (const std::string& shard : shards) {
    if (!fs::exists(dir / shard)) missing_shard(dir, shard, map);
    add_file(dir / shard, files, out);
  }
  check_index(dir / kIndex, map, out);
  return out;
}

Checkpoint Checkpoint::open(const fs::path& dir) {
  check_directory(dir);
  Checkpoint out;
  out.path_ = dir;
  const fs::path config_file = find_config(dir);
  out.config_json_ = read_text_file(config_file);
  ParsedConfig parsed = parse_config(out.config_json_, config_file.string());
  const FoundTensors found = open_files(dir, out.files_);
  infer_expert_format(found, parsed);
  check_config(parsed.config, config_file.string());
  out.config_ = parsed.config;
  out.warnings_ = parsed.warnings;
  for (std::string& w : check_tensors(dir, out.config_, found))
    out.warnings_.push_back(std::move(w));

  std::uint64_t scale_bytes = 0;
  for (const auto& [name, tensor] : found) {
    out.tensors_.emplace(name, tensor.view);
    if (tensor.view.dtype == DType::F8_E8M0) scale_bytes += tensor.view.bytes.size();
  }
  out.scales_checked_ = scale_bytes <= kScanAtOpen;
  if (!out.scales_checked_)
    return out;  // too many to read now: matrix() checks each one it hands out
  for (const auto& [name, tensor] : found) {
    if (tensor.view.dtype == DType::F8_E8M0) check_scale(tensor.file, name, tensor.view);
  }
  return out;
}

}  // namespace dsv4
