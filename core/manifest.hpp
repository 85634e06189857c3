// SPDX-License-Identifier: Apache-2.0
// Every tensor of a checkpoint in the official layout: name, dtype, shape, all derived from the
// config. The one place that knows tensor names; reading, checking and generating checkpoints all
// walk this list.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.hpp"
#include "core/dtype.hpp"

namespace dsv4 {

struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
};

// In the order of the forward pass. Flash has 69,187 tensors, Pro 145,116.
std::vector<TensorSpec> manifest(const ModelConfig& config);
// The tensors outside every block: embed, hc_head, norm, head.
std::vector<TensorSpec> model_manifest(const ModelConfig& config);
// The tensors of one block; prefix is "layers.7" or "mtp.0", layer indexes compress_ratios.
std::vector<TensorSpec> block_manifest(const ModelConfig& config, std::int64_t layer,
                                       std::string_view prefix);
// "layers.7" or, from n_layers on, "mtp.0".
std::string block_prefix(const ModelConfig& config, std::int64_t layer);

std::string to_string(const std::vector<std::int64_t>& shape);  // "[1024, 4096]"

}  // namespace dsv4
