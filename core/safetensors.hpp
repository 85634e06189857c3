// SPDX-License-Identifier: Apache-2.0
// The safetensors container: memory-mapped reading with every offset checked, and streamed writing.
// A checkpoint file is untrusted input: nothing in it is used before it is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.hpp"
#include "core/manifest.hpp"

namespace dsv4 {

struct TensorView {
  DType dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  // points into the mapped file
};

class SafetensorsFile {
 public:
  // Throws WeightError for a header that is truncated, oversized, overlapping, out of range or not
  // JSON.
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const std::byte> map_;  // munmap on release
  std::map<std::string, TensorView> tensors_;
};

// Writes one file: to a temporary name beside it, then renamed, so that no half file is ever left.
// Tensors are laid out widest dtype first (as the format's own library does, so that each is
// aligned), otherwise in the given order. `fill` must fill the given bytes, which start `offset`
// bytes into the tensor: once for a small tensor, in slices of at most 64 MB for a large one.
using TensorFill =
    std::function<void(const TensorSpec& spec, std::span<std::byte> bytes, std::size_t offset)>;
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors,
                       const TensorFill& fill);

}  // namespace dsv4
