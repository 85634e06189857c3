// SPDX-License-Identifier: Apache-2.0
// The checks that Checkpoint::open makes; private to core/.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.hpp"
#include "core/safetensors.hpp"

namespace dsv4 {

// Where a tensor comes from, for messages.
struct Found {
  TensorView view;
  std::filesystem::path file;
};
using FoundTensors = std::map<std::string, Found>;

// Opens every file of the checkpoint: by its index, or model.safetensors, or all *.safetensors.
FoundTensors open_files(const std::filesystem::path& dir, std::vector<SafetensorsFile>& files);

// Every tensor that the config demands is there, in the right dtype and shape. Returns warnings.
std::vector<std::string> check_tensors(const std::filesystem::path& dir, const ModelConfig& config,
                                       const FoundTensors& found);

// No code of an E8M0 scale is 255 (NaN).
void check_scale(const std::filesystem::path& where, std::string_view name,
                 const TensorView& scale);

// "the nearest existing name is …", or "".
template <class Map>
std::string nearest_hint(std::string_view name, const Map& tensors);
std::string nearest_hint_of(std::string_view name, const std::vector<std::string_view>& names);

template <class Map>
std::string nearest_hint(std::string_view name, const Map& tensors) {
  std::vector<std::string_view> names;
  for (const auto& [key, value] : tensors) names.push_back(key);
  return nearest_hint_of(name, names);
}

}  // namespace dsv4
