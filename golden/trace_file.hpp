// SPDX-License-Identifier: Apache-2.0
// Reading and writing trace/1 files: every intermediate of a run, in HDF5 (golden/schema.md). The
// file tree is the module tree: tap "layers.2.attn.qr" of call 0 is the dataset
// /calls/0000/layers/2/attn/qr.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::golden {

struct TraceAttributes {
  std::string rounding;     // "exact" | "official"
  std::string config_json;  // required
  std::string producer, producer_revision, official_revision, model_fingerprint, arith,
      flags;  // "" = absent
  std::optional<std::int64_t> seed;
};

struct DatasetInfo {
  std::string name;  // dots: "layers.2.attn.qr"
  std::vector<std::int64_t> shape;
  bool integer = false;
  int bits = 64;      // of the stored type
  std::string dtype;  // attribute: fp64 fp32 bf16 fp16 int; "" = absent
  std::string axes;   // attribute, "" = absent
  std::optional<std::vector<std::int64_t>>
      rows;  // attribute `rows`: which rows of the call these are, ascending
  std::int64_t size() const;
};

struct CallInfo {
  std::string name;                      // "0000"
  std::int64_t start_pos = 0;            // first of `positions` where that is given
  std::vector<std::int64_t> positions;   // empty: consecutive from start_pos
  std::optional<std::int64_t> n_tokens;  // attribute: length of the call
  std::vector<DatasetInfo> datasets;     // in file order (creation order)
};

class TraceFile {
 public:
  // Throws TraceError: not HDF5, truncated, another schema, a required part missing.
  explicit TraceFile(const std::filesystem::path& path);
  ~TraceFile();
  TraceFile(TraceFile&&) noexcept;
  TraceFile& operator=(TraceFile&&) noexcept;

  const std::filesystem::path& path() const;
  const TraceAttributes& attributes() const;
  const std::vector<std::int64_t>& input_ids() const;
  const std::vector<CallInfo>& calls() const;
  const DatasetInfo* find(std::size_t call, std::string_view name) const;  // null: absent

  // Whole datasets, row-major. A checksum or decompression failure is a TraceError that names the
  // dataset.
  std::vector<double> read(std::size_t call, const DatasetInfo& dataset) const;
  std::vector<std::int64_t> read_integers(std::size_t call, const DatasetInfo& dataset) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class TraceWriter {
 public:
  // Opens a temporary file beside `path`. Nothing appears under `path` before commit(); an
  // uncommitted writer removes its temporary file. Same inputs give the same bytes. Throws IoError.
  TraceWriter(const std::filesystem::path& path, const TraceAttributes& attributes,
              std::span<const std::int32_t> input_ids);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  struct Meta {
    std::string axes, dtype, site, eq;
    std::vector<std::int32_t> rows;  // empty: all rows
  };
  // `n_tokens`: length of the call. A reader that is not told infers it from taps with a row per
  // token, or else from the ids.
  void begin_call(std::int64_t start_pos, std::optional<std::int64_t> n_tokens = std::nullopt);
  void write(std::string_view name, std::span<const std::int64_t> shape,
             std::span<const double> values, const Meta&);
  void write(std::string_view name, std::span<const std::int64_t> shape,
             std::span<const std::int32_t> values, const Meta&);
  void write(std::string_view name, std::span<const std::int64_t> shape,
             std::span<const std::uint8_t> values, const Meta&);
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv4::golden
