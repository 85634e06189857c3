// SPDX-License-Identifier: Apache-2.0
#include "core/checkpoint_writer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file_writer.hpp"

namespace dsv4 {
namespace {

namespace fs = std::filesystem;

std::uint64_t byte_count(const TensorSpec& t) {
  std::uint64_t n = size_of(t.dtype);
  for (const std::int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
  return n;
}

// In the order of the manifest, a new shard whenever the next tensor would not fit.
std::vector<std::vector<TensorSpec>> shard(const std::vector<TensorSpec>& tensors,
                                           std::uint64_t limit) {
  std::vector<std::vector<TensorSpec>> out(1);
  std::uint64_t used = 0;
  for (const TensorSpec& t : tensors) {
    if (used > 0 && used + byte_count(t) > limit) {
      out.emplace_back();
      used = 0;
    }
    out.back().push_back(t);
    used += byte_count(t);
  }
  return out;
}

// A directory that is renamed into place by commit(), and removed without it.
class NewDirectory {
 public:
  explicit NewDirectory(const fs::path& target) : target_(target) {
    std::error_code error;
    if (fs::exists(target, error) &&
        (!fs::is_directory(target, error) || !fs::is_empty(target, error))) {
      throw UsageError(
          fmt::format("{}: exists and is not empty", target.string()),
          "name another directory, or remove this one first: nothing is ever overwritten");
    }
    fs::path plain = target.has_filename() ? target : target.parent_path();  // "dir/" -> "dir"
    temporary_ = plain.string() + fmt::format(".{}.tmp", ::getpid());
    fs::create_directories(temporary_, error);
    if (error) {
      throw IoError(fmt::format("{}: cannot be created: {}", temporary_.string(), error.message()));
    }
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory() {
    std::error_code ignored;
    if (!committed_) fs::remove_all(temporary_, ignored);
  }

  const fs::path& path() const { return temporary_; }

  void commit() {
    std::error_code error;
    fs::remove(target_, error);  // an empty directory of that name
    fs::rename(temporary_, target_, error);
    if (error) {
      throw IoError(
          fmt::format("{}: cannot be renamed into place: {}", target_.string(), error.message()));
    }
    committed_ = true;
  }

 private:
  fs::path target_;
  fs::path temporary_;
  bool committed_ = false;
};

}  // namespace

WrittenCheckpoint write_checkpoint(const std::string& config_json,
                                   const std::vector<TensorSpec>& tensors, const fs::path& dir,
                                   const TensorFill& fill, const CheckpointOptions& options) {
  WrittenCheckpoint report;
  report.tensors = tensors.size();
  for (const TensorSpec& t : tensors) report.bytes += byte_count(t);

  NewDirectory out(dir);
  const auto shards = shard(tensors, options.shard_bytes);
  report.shards = shards.size();
  std::uint64_t done = 0;
  const auto counted = [&](const TensorSpec& t, std::span<std::byte> bytes, std::size_t offset) {
    fill(t, bytes, offset);
    done += bytes.size();
    if (options.progress) options.progress(done, report.bytes);
  };
  nlohmann::json index = {{"metadata", {{"total_size", report.bytes}}}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(out.path() / file, shards[i], counted);
    for (const TensorSpec& t : shards[i]) index["weight_map"][t.name] = file;
  }
  write_text_file(out.path() / "config.json", config_json);
  write_text_file(out.path() / "model.safetensors.index.json", index.dump(2) + "\n");
  out.commit();
  return report;
}

}  // namespace dsv4
