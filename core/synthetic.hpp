// SPDX-License-Identifier: Apache-2.0
// Synthetic checkpoints in the official layout: seeded random weights, scaled so that the model is
// numerically alive (activations of order one, clamps reached, routing undecided). They teach
// nothing about language; they exercise every line of an implementation at any size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/checkpoint_writer.hpp"
#include "core/config.hpp"
#include "core/manifest.hpp"

namespace dsv4 {

struct SyntheticOptions {
  std::uint64_t seed = 0;
  std::uint64_t shard_bytes = std::uint64_t{2} << 30;
  bool ties =
      false;  // experts 8i and 8i+1 share their routing row and bias: exact ties at the gate
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // bytes
};

// Names of the presets: tiny, engine, flash-layer, pro-layer.
const std::vector<std::string_view>& synthetic_presets();
// The root config.json of a preset. Throws UsageError for another name.
nlohmann::json synthetic_preset(std::string_view name);

// Writes the checkpoint (checkpoint_writer.hpp). Memory stays below 200 MB whatever the size.
WrittenCheckpoint write_synthetic_checkpoint(const nlohmann::json& config,
                                             const std::filesystem::path& dir,
                                             const SyntheticOptions& options);

// The bytes of one tensor. Value i depends on (seed, name, i) only. Exposed for tests.
class SyntheticWeights {
 public:
  SyntheticWeights(const ModelConfig& config, std::uint64_t seed, bool ties);
  // Fills the bytes that start `offset` bytes into the tensor; offset is a multiple of 8.
  void fill(const TensorSpec& spec, std::span<std::byte> bytes, std::size_t offset) const;

 private:
  double weight_std(std::string_view stem, std::int64_t inputs) const;
  std::int64_t inputs_of(std::string_view stem) const;

  ModelConfig config_;
  std::uint64_t seed_;
  bool ties_;
};

}  // namespace dsv4
