// SPDX-License-Identifier: Apache-2.0
// The checkpoint against its manifest: missing, wrong, contradictory, extra.
#include "core/checkpoint_check.hpp"

#include <cstring>
#include <fmt/format.h>
#include <set>

#include "core/error.hpp"
#include "core/manifest.hpp"
#include "core/text.hpp"

namespace dsv4 {
namespace {

constexpr std::size_t kExtraShown = 5;

class TensorChecker {
 public:
  TensorChecker(const std::filesystem::path& dir, const ModelConfig& config,
                const FoundTensors& found)
      : dir_(dir), config_(config), found_(found) {}

  std::vector<std::string> run() {
    check(model_manifest(config_));
    for (std::int64_t layer = 0; layer < config_.n_layers + config_.n_mtp_layers; ++layer) {
      check(block_manifest(config_, layer, block_prefix(config_, layer)));
    }
    return extras();
  }

 private:
  void check(const std::vector<TensorSpec>& specs) {
    for (const TensorSpec& spec : specs) {
      const auto it = found_.find(spec.name);
      if (it == found_.end()) missing(spec);
      check(spec, it->second);
      expected_.insert(it->first);
    }
  }

  [[noreturn]] void missing(const TensorSpec& spec) const {
    const std::string what = fmt::format("{}: missing tensor {} ({} {})", dir_.string(), spec.name,
                                         name(spec.dtype), to_string(spec.shape));
    if (spec.name.ends_with(".scale")) {
      throw WeightError(what,
                        "quantised weights mean nothing without their scale: never cast the codes "
                        "alone, convert or download the checkpoint again");
    }
    throw WeightError(what, nearest_hint_of(spec.name, strangers()));
  }

  // Tensors that the manifest does not know: one of them may be the missing one, misspelt.
  std::vector<std::string_view> strangers() const {
    std::set<std::string> known;
    for (const TensorSpec& spec : manifest(config_)) known.insert(spec.name);
    std::vector<std::string_view> out;
    for (const auto& [tensor_name, found] : found_) {
      if (!known.contains(tensor_name)) out.push_back(tensor_name);
    }
    return out;
  }

  void check(const TensorSpec& spec, const Found& found) const {
    const auto wrong = [&](std::string_view what, std::string_view expected, std::string_view is,
                           const std::string& hint) {
      throw WeightError(fmt::format("{}: tensor {}: {}: expected {}, found {}", found.file.string(),
                                    spec.name, what, expected, is),
                        hint);
    };
    if (found.view.dtype != spec.dtype) {
      wrong("wrong dtype", name(spec.dtype), name(found.view.dtype), dtype_hint(spec, found.view));
    }
    if (found.view.shape != spec.shape) {
      wrong("wrong shape", to_string(spec.shape), to_string(found.view.shape),
            "the config and the tensors belong to different models?");
    }
    if (spec.name.ends_with(".tid2eid")) check_table(spec, found);
  }

  static std::string dtype_hint(const TensorSpec& spec, const TensorView& view) {
    if (spec.name.ends_with(".scale")) {
      return "scales are E8M0 codes, bytes whose value is 2^(code-127), not numbers";
    }
    if (spec.dtype == DType::I8 || view.dtype == DType::I8) {
      return "I8 is packed FP4: \"expert_dtype\" in config.json must be \"fp4\" then, and only "
             "then";
    }
    return "the config's quantisation and the tensors disagree";
  }

  // The routing table of a hash layer: every id must be an expert.
  void check_table(const TensorSpec& spec, const Found& found) const {
    const std::int64_t cols = spec.shape[1];
    for (std::int64_t i = 0; i < spec.shape[0] * cols; ++i) {
      std::int64_t id = 0;
      std::memcpy(&id, found.view.bytes.data() + static_cast<std::size_t>(i) * sizeof id,
                  sizeof id);
      if (id >= 0 && id < config_.n_routed_experts) continue;
      throw WeightError(fmt::format(
          "{}: tensor {}[{}, {}]: expected an expert id in 0..{}, found {}", found.file.string(),
          spec.name, i / cols, i % cols, config_.n_routed_experts - 1, id));
    }
  }

  std::vector<std::string> extras() const {
    std::size_t count = 0;
    std::string shown;
    for (const auto& [tensor_name, found] : found_) {
      if (expected_.contains(tensor_name)) continue;
      if (count++ < kExtraShown) shown += (shown.empty() ? "" : ", ") + tensor_name;
    }
    if (count == 0) return {};
    return {fmt::format("{} extra tensor{} ignored: {}{}", count, count == 1 ? "" : "s", shown,
                        count > kExtraShown ? ", …" : "")};
  }

  const std::filesystem::path& dir_;
  const ModelConfig& config_;
  const FoundTensors& found_;
  std::set<std::string_view> expected_;
};

}  // namespace

std::vector<std::string> check_tensors(const std::filesystem::path& dir, const ModelConfig& config,
                                       const FoundTensors& found) {
  return TensorChecker(dir, config, found).run();
}

void check_scale(const std::filesystem::path& where, std::string_view name,
                 const TensorView& scale) {
  const void* hit = std::memchr(scale.bytes.data(), 255, scale.bytes.size());
  if (hit == nullptr) return;
  const std::int64_t i = static_cast<const std::byte*>(hit) - scale.bytes.data();
  const std::int64_t cols = scale.shape.empty() ? 1 : scale.shape.back();
  throw WeightError(
      fmt::format("{}: tensor {}[{}, {}]: expected an E8M0 code below 255, found 255 (NaN)",
                  where.string(), name, i / cols, i % cols),
      "the file is damaged, or its scales were written as another number format");
}

std::string nearest_hint_of(std::string_view name, const std::vector<std::string_view>& names) {
  const std::string close = nearest(name, names);
  return close.empty() ? "" : fmt::format("the nearest name in the checkpoint is {}", close);
}

}  // namespace dsv4
