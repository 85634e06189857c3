// SPDX-License-Identifier: Apache-2.0
// The writing half of trace_file.hpp.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <stdexcept>
#include <unistd.h>

#include "core/error.hpp"
#include "golden/hdf5.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::golden {
namespace {

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<int> counter{0};
  return fmt::format("{}.{}-{}.tmp", path.string(), ::getpid(), counter++);
}

std::size_t count_of(std::span<const std::int64_t> shape) {
  std::size_t n = 1;
  for (const std::int64_t extent : shape) n *= static_cast<std::size_t>(extent);
  return n;
}

std::vector<std::string> split_axes(const std::string& axes) {
  std::vector<std::string> parts;
  for (std::size_t from = 0; from <= axes.size();) {
    const std::size_t to = std::min(axes.find(',', from), axes.size());
    parts.push_back(axes.substr(from, to - from));
    from = to + 1;
  }
  return parts;
}

// A dtype of at most 24 significant bits fits float32; the values decide, so that nothing is ever
// lost.
bool fits_float32(const std::string& dtype, std::span<const double> values) {
  if (dtype != "bf16" && dtype != "fp16" && dtype != "fp32") return false;
  return std::ranges::all_of(values, [](double v) {
    if (!std::isfinite(v)) return true;
    return std::abs(v) <= std::numeric_limits<float>::max() &&
           static_cast<double>(static_cast<float>(v)) == v;
  });
}

void sync_to_disk(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool failed = fd < 0 || (::fsync(fd) != 0 && errno != EINVAL && errno != EROFS);
  const int code = errno;
  if (fd >= 0) ::close(fd);
  if (failed) {
    throw IoError(
        fmt::format("{}: cannot be written to disk: {}", path.string(), std::strerror(code)));
  }
}

// The dot that separates the group from the dataset. "kv.code" and "kv.scale.margin" are one name:
// a dataset kv stands beside them and cannot be a group.
std::size_t last_separator(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return dot;
  const std::string_view leaf = name.substr(dot + 1);
  const bool beside = leaf == "margin" || leaf == "code" || leaf == "scale";
  return beside ? last_separator(name.substr(0, dot)) : dot;
}

}  // namespace

struct TraceWriter::Impl {
  std::filesystem::path target, temporary;
  std::optional<hdf5::File> file;
  std::optional<hdf5::Group> calls;
  // Of the current call, by dotted name; "" is the call itself.
  std::map<std::string, hdf5::Group> groups;
  int n_calls = 0;

  explicit Impl(const std::filesystem::path& path)
      : target(path), temporary(temporary_beside(path)) {
    // A rename would put a file in the place of a device, a pipe or a directory.
    if (std::filesystem::exists(target) && !std::filesystem::is_regular_file(target)) {
      throw IoError(target.string() + ": exists and is not a regular file");
    }
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
      throw IoError(fmt::format("{}: cannot be created: {}", target.string(), std::strerror(errno)),
                    "check that the directory exists and is writable");
    }
    ::close(fd);
  }

  ~Impl() {
    groups.clear();
    calls.reset();
    file.reset();
    if (!temporary.empty()) ::unlink(temporary.c_str());
  }

  hdf5::Group& group(const std::string& dotted) {
    if (const auto found = groups.find(dotted); found != groups.end()) return found->second;
    const std::size_t dot = dotted.rfind('.');
    const bool top = dot == std::string::npos;
    hdf5::Group& parent = group(top ? "" : dotted.substr(0, dot));
    return groups.emplace(dotted, parent.create_group(top ? dotted : dotted.substr(dot + 1)))
        .first->second;
  }

  template <class T>
  void write(std::string_view name, std::span<const std::int64_t> shape, std::span<const T> values,
             const Meta& meta) {
    if (n_calls == 0) throw std::logic_error("TraceWriter: write before begin_call");
    if (values.size() != count_of(shape)) {
      throw std::logic_error(fmt::format("TraceWriter: {}: {} values for shape [{}]", name,
                                         values.size(), fmt::join(shape, ", ")));
    }
    const std::size_t dot = last_separator(name);
    const bool top = dot == std::string_view::npos;
    hdf5::Group& parent = group(std::string(top ? std::string_view{} : name.substr(0, dot)));
    hdf5::Dataset dataset =
        parent.create(std::string(top ? name : name.substr(dot + 1)), shape, values);
    const std::pair<const char*, const std::string*> texts[] = {
        {"axes", &meta.axes}, {"dtype", &meta.dtype}, {"site", &meta.site}, {"eq", &meta.eq}};
    for (const auto& [attribute, text] : texts) {
      if (!text->empty()) dataset.set_text(attribute, *text);
    }
    if (!meta.rows.empty()) dataset.set_integers("rows", meta.rows);
    const auto labels = split_axes(meta.axes);
    if (labels.size() == shape.size()) dataset.set_labels(labels);
  }
};

TraceWriter::TraceWriter(const std::filesystem::path& path, const TraceAttributes& attributes,
                         std::span<const std::int32_t> input_ids)
    : impl_(std::make_unique<Impl>(path)) {
  impl_->file = hdf5::File::create(impl_->temporary, path.string());
  hdf5::Group root = impl_->file->root();
  const TraceAttributes& a = attributes;
  const std::pair<const char*, const std::string*> texts[] = {
      {"rounding", &a.rounding},
      {"config_json", &a.config_json},
      {"producer", &a.producer},
      {"producer_revision", &a.producer_revision},
      {"official_revision", &a.official_revision},
      {"model_fingerprint", &a.model_fingerprint},
      {"arith", &a.arith},
      {"flags", &a.flags}};
  root.set_text("dsv4_schema", "trace/1");
  for (const auto& [attribute, text] : texts) {
    if (!text->empty()) root.set_text(attribute, *text);
  }
  if (a.seed) root.set_integer("seed", *a.seed);
  const std::int64_t shape[] = {static_cast<std::int64_t>(input_ids.size())};
  root.create_group("inputs").create("input_ids", shape, input_ids);
  impl_->calls = root.create_group("calls");
}

TraceWriter::~TraceWriter() = default;

void TraceWriter::begin_call(std::int64_t start_pos, std::optional<std::int64_t> n_tokens) {
  impl_->groups.clear();
  hdf5::Group call = impl_->calls->create_group(fmt::format("{:04}", impl_->n_calls++));
  call.set_integer("start_pos", start_pos);
  if (n_tokens) call.set_integer("n_tokens", *n_tokens);
  impl_->groups.emplace("", std::move(call));
}

void TraceWriter::write(std::string_view name, std::span<const std::int64_t> shape,
                        std::span<const double> values, const Meta& meta) {
  if (fits_float32(meta.dtype, values)) {
    const std::vector<float> narrow(values.begin(), values.end());
    impl_->write(name, shape, std::span<const float>(narrow), meta);
  } else {
    impl_->write(name, shape, values, meta);
  }
}

void TraceWriter::write(std::string_view name, std::span<const std::int64_t> shape,
                        std::span<const std::int32_t> values, const Meta& meta) {
  impl_->write(name, shape, values, meta);
}

void TraceWriter::write(std::string_view name, std::span<const std::int64_t> shape,
                        std::span<const std::uint8_t> values, const Meta& meta) {
  impl_->write(name, shape, values, meta);
}

void TraceWriter::commit() {
  impl_->groups.clear();
  impl_->calls.reset();
  impl_->file->close();
  impl_->file.reset();
  sync_to_disk(impl_->temporary);
  if (::rename(impl_->temporary.c_str(), impl_->target.c_str()) != 0) {
    throw IoError(fmt::format("{}: cannot be renamed into place: {}", impl_->target.string(),
                              std::strerror(errno)));
  }
  impl_->temporary.clear();
}

}  // namespace dsv4::golden
