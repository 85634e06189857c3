// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <set>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file_writer.hpp"
#include "core/safetensors.hpp"

namespace dsv4 {
namespace {

constexpr std::size_t kSliceBytes = std::size_t{64} << 20;

std::uint64_t byte_count(const TensorSpec& spec) {
  std::uint64_t bytes = size_of(spec.dtype);
  for (const std::int64_t n : spec.shape) {
    if (n < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(n), &bytes)) {
      throw WeightError(fmt::format("tensor {}: bad shape {}", spec.name, to_string(spec.shape)));
    }
  }
  return bytes;
}

// 8 bytes of length, then the JSON, padded with spaces so that the data begin on a multiple of 8.
std::string make_header(const std::vector<TensorSpec>& tensors) {
  std::set<std::string_view> names;
  std::string text = R"({"__metadata__":{"format":"pt"})";
  std::uint64_t offset = 0;
  for (const TensorSpec& t : tensors) {
    if (!names.insert(t.name).second) {
      throw WeightError(fmt::format("tensor {} occurs twice", t.name));
    }
    const std::uint64_t end = offset + byte_count(t);
    const nlohmann::json entry = {
        {"dtype", name(t.dtype)}, {"shape", t.shape}, {"data_offsets", {offset, end}}};
    text += fmt::format(",{}:{}", nlohmann::json(t.name).dump(), entry.dump());
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors,
                       const TensorFill& fill) {
  std::vector<TensorSpec> sorted = tensors;
  std::ranges::stable_sort(sorted, std::ranges::greater{},
                           [](const TensorSpec& t) { return size_of(t.dtype); });
  FileWriter out(path);
  out.write(make_header(sorted));
  std::vector<std::byte> slice;
  for (const TensorSpec& t : sorted) {
    const std::uint64_t total = byte_count(t);
    for (std::uint64_t offset = 0; offset < total; offset += slice.size()) {
      slice.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kSliceBytes, total - offset)));
      fill(t, slice, static_cast<std::size_t>(offset));
      out.write(slice);
    }
  }
  out.commit();
}

}  // namespace dsv4
