// SPDX-License-Identifier: Apache-2.0
// A checkpoint in the official layout: config.json beside one or several safetensors files, checked
// against the manifest when opened. Weights stay in the mapped file in their own format; a product
// dequantises the tile it is working on (a layer's 256 experts in float64 would be 51 GB).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.hpp"
#include "core/safetensors.hpp"
#include "core/tensor.hpp"

namespace dsv4 {

// A weight matrix [rows, cols] = [out, in] as it is stored. F8_E4M3 has one E8M0 scale per 128x128
// block, packed E2M1 (dtype I8, two codes a byte) one per row and 32 columns; the others have none.
struct Weight {
  DType dtype = DType::F64;
  std::int64_t rows = 0;
  std::int64_t cols = 0;  // logical columns: twice the bytes of a row for packed E2M1
  const std::byte* data = nullptr;
  const std::uint8_t* scale =
      nullptr;       // E8M0 codes, row-major [ceil(rows/128), ceil(cols/128)] or [rows, cols/32]
  std::string name;  // for error messages
  std::int64_t scale_row = 0;  // rows of the first 128-row scale block that lie before this view

  std::int64_t row_bytes() const;
  // Rows first … first+count-1 as a view of the same bytes.
  Weight row_slice(std::int64_t first, std::int64_t count) const;
};

// Views a matrix in memory; it must outlive the view. For tests and small experiments.
Weight as_weight(const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>& m,
                 std::string name = "in memory");

// out[i*stride + j] = W[row + i, col + j], exactly, for 0 <= i < n_rows, 0 <= j < n_cols.
void dequantize(const Weight& w, std::int64_t row, std::int64_t n_rows, std::int64_t col,
                std::int64_t n_cols, Real* out, std::int64_t stride);

class Checkpoint {
 public:
  // Throws ConfigError or WeightError with what, where, expected against found, and a hint.
  static Checkpoint open(const std::filesystem::path& dir);

  const ModelConfig& config() const { return config_; }
  const std::string& config_json() const { return config_json_; }  // the file's text
  const std::filesystem::path& path() const { return path_; }
  const std::vector<std::string>& warnings() const {
    return warnings_;
  }  // extra tensors, unknown fields
  std::size_t tensor_count() const { return tensors_.size(); }
  std::uint64_t total_bytes() const;

  bool has(const std::string& name) const { return tensors_.contains(name); }
  const TensorView& tensor(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  Weight matrix(const std::string& stem)
      const;  // stem.weight (+ stem.scale), or a bare name such as layers.0.hc_attn_fn
  Row vector(const std::string& name) const;  // a 1-d tensor, widened

  // SHA-256, hex, of the lines name⇥dtype⇥[d0,d1]⇥hex(first 64 bytes)⇥hex(last 64 bytes)\n, sorted
  // by name.
  std::string fingerprint() const;

 private:
  std::filesystem::path path_;
  std::string config_json_;
  ModelConfig config_;
  std::vector<std::string> warnings_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
  bool scales_checked_ = false;  // else matrix() checks the scales that it hands out
};

}  // namespace dsv4
