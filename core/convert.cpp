// SPDX-License-Identifier: Apache-2.0
#include "core/convert.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <optional>

#include <nlohmann/json.hpp>

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/json.hpp"

namespace dsv4 {
namespace {

constexpr std::int64_t kBlock = 128;      // of both axes share an FP8 scale
constexpr std::int64_t kSubBlock = 32;    // columns share an FP4 scale
constexpr int kHeadroom = 6;              // 6 * 2^6 = 384 <= 448
constexpr int kUnknown = -1, kLost = -2;  // entries of a table of codes

// The E4M3 code of the E2M1 code times 2^shift; kLost where E4M3 has no such number. Code 8, -0, is
// read as 0 by the official code.
int shifted_code(std::uint8_t code, int shift) {
  const float value = std::ldexp(decode_e2m1(code), shift);
  if (value == 0) return decode_e2m1(code) == 0 ? 0 : kLost;
  const std::uint8_t coded = encode_e4m3(value);
  return decode_e4m3(coded) == value ? coded : kLost;
}

// One expert matrix: FP4 codes and scales, and the scale of each FP8 block.
class Fp8Matrix {
 public:
  explicit Fp8Matrix(const Weight& w) : w_(w), blocks_((w.cols + kBlock - 1) / kBlock) {
    const std::int64_t sub = w.cols / kSubBlock;
    scales_.assign(static_cast<std::size_t>((w.rows + kBlock - 1) / kBlock * blocks_), 0);
    for (std::int64_t r = 0; r < w.rows; ++r) {
      for (std::int64_t j = 0; j < sub; ++j) {
        int& largest = scales_[block(r, j * kSubBlock)];
        largest = std::max(largest, static_cast<int>(w.scale[r * sub + j]));
      }
    }
    for (int& s : scales_) s -= kHeadroom;
  }

  std::uint8_t scale(std::int64_t index) const {
    const int s = scales_[static_cast<std::size_t>(index)];
    if (s >= 0) return static_cast<std::uint8_t>(s);
    throw WeightError(fmt::format("tensor {}: block {}: a scale of 2^{} has no E8M0 code", w_.name,
                                  index, s - 127),
                      "this checkpoint cannot be written in FP8 without loss");
  }

  std::uint8_t code(std::int64_t row, std::int64_t col) const {
    const auto byte = static_cast<std::uint8_t>(w_.data[row * w_.row_bytes() + col / 2]);
    const std::uint8_t fp4 = col % 2 == 0 ? byte & 15U : byte >> 4U;
    const int old = w_.scale[row * (w_.cols / kSubBlock) + col / kSubBlock];
    const int shift = old - scales_[block(row, col)];
    int& known = table_[static_cast<std::size_t>(fp4)][static_cast<std::size_t>(shift) + 256];
    if (known == kUnknown) known = shifted_code(fp4, shift);
    if (known != kLost) return static_cast<std::uint8_t>(known);
    throw WeightError(
        fmt::format(
            "tensor {}[{}, {}] = {} * 2^{}: expected at most 2^14 below its 128x128 block's "
            "largest scale 2^{}, which FP8 can hold",
            w_.name, row, col, decode_e2m1(fp4), old - 127,
            scales_[block(row, col)] + kHeadroom - 127),
        "this checkpoint cannot be written in FP8 without loss");
  }

 private:
  std::size_t block(std::int64_t row, std::int64_t col) const {
    return static_cast<std::size_t>(row / kBlock * blocks_ + col / kBlock);
  }

  static std::array<std::array<int, 512>, 16> empty_table() {
    std::array<std::array<int, 512>, 16> table{};
    for (auto& row : table) row.fill(kUnknown);
    return table;
  }

  Weight w_;
  std::int64_t blocks_;
  std::vector<int> scales_;
  mutable std::array<std::array<int, 512>, 16> table_ = empty_table();
};

bool is_routed_expert(std::string_view name) { return name.find(".ffn.experts.") != name.npos; }

std::string stem_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

}  // namespace

WrittenCheckpoint convert_experts_to_fp8(const Checkpoint& checkpoint,
                                         const std::filesystem::path& dir,
                                         const CheckpointOptions& options) {
  ModelConfig config = checkpoint.config();
  if (config.expert_format != WeightFormat::fp4) {
    throw UsageError(
        fmt::format("{}: expected FP4 experts, found others", checkpoint.path().string()),
        "\"expert_dtype\" in config.json says what they are; there is nothing to convert");
  }
  config.expert_format = WeightFormat::fp8;
  nlohmann::json json = parse_json(checkpoint.config_json());
  json["expert_dtype"] = "fp8";

  std::optional<Fp8Matrix> matrix;  // the one that is being written
  std::string stem;
  const auto fill = [&](const TensorSpec& t, std::span<std::byte> bytes, std::size_t offset) {
    if (!is_routed_expert(t.name)) {
      const auto source = checkpoint.tensor(t.name).bytes.subspan(offset, bytes.size());
      std::ranges::copy(source, bytes.begin());
      return;
    }
    if (stem != stem_of(t.name)) matrix.emplace(checkpoint.matrix(stem = stem_of(t.name)));
    const bool scale = t.dtype == DType::F8_E8M0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      const auto at = static_cast<std::int64_t>(offset + i);
      bytes[i] = static_cast<std::byte>(scale ? matrix->scale(at)
                                              : matrix->code(at / t.shape[1], at % t.shape[1]));
    }
  };
  return write_checkpoint(json.dump(2) + "\n", manifest(config), dir, fill, options);
}

}  // namespace dsv4
