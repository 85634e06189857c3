// SPDX-License-Identifier: Apache-2.0
// Writing a checkpoint in the official layout: config.json, shards, and their index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/manifest.hpp"
#include "core/safetensors.hpp"

namespace dsv4 {

struct CheckpointOptions {
  std::uint64_t shard_bytes = std::uint64_t{2} << 30;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // bytes
};

struct WrittenCheckpoint {
  std::size_t tensors = 0;
  std::size_t shards = 0;
  std::uint64_t bytes = 0;  // of tensor data
};

// Writes into `dir`, which must not exist or be empty. The files appear all at once: they are
// written to a directory beside it, which is then renamed. Throws UsageError, IoError, and what
// `fill` throws; then nothing is left behind.
WrittenCheckpoint write_checkpoint(const std::string& config_json,
                                   const std::vector<TensorSpec>& tensors,
                                   const std::filesystem::path& dir, const TensorFill& fill,
                                   const CheckpointOptions& options);

}  // namespace dsv4
