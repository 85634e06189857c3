// SPDX-License-Identifier: Apache-2.0
// Reading. The writer is safetensors_writer.cpp.
#include "core/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <string_view>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/json.hpp"

namespace dsv4 {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMostHeaderBytes = 100'000'000;  // the limit of the format's own library

struct Mapping {
  std::shared_ptr<const std::byte> data;
  std::uint64_t size = 0;
};

[[noreturn]] void system_error(const std::filesystem::path& path, std::string_view doing) {
  throw IoError(fmt::format("{}: {}: {}", path.string(), doing, std::strerror(errno)));
}

// No madvise: prefill reads front to back, decode jumps between experts of megabytes each, and the
// kernel's own read-ahead serves both; MADV_RANDOM would halve the first, MADV_SEQUENTIAL drop
// caches.
Mapping map_file(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) system_error(path, "cannot be opened");
  const std::unique_ptr<const int, void (*)(const int*)> close_fd(
      &fd, [](const int* f) { ::close(*f); });
  struct stat status {};
  if (::fstat(fd, &status) != 0) system_error(path, "cannot be examined");
  if (!S_ISREG(status.st_mode)) {
    throw IoError(fmt::format("{}: expected a regular file", path.string()));
  }
  Mapping out;
  out.size = static_cast<std::uint64_t>(status.st_size);
  if (out.size == 0) return out;
  void* address = ::mmap(nullptr, out.size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED) system_error(path, "cannot be mapped");
  out.data = std::shared_ptr<const std::byte>(
      static_cast<const std::byte*>(address),
      [size = out.size](const std::byte* p) { ::munmap(const_cast<std::byte*>(p), size); });
  return out;
}

// One tensor's header entry, before its place in the file is known to be good.
struct Entry {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

class HeaderParser {
 public:
  HeaderParser(const std::filesystem::path& path, std::uint64_t data_bytes)
      : path_(path), data_bytes_(data_bytes) {}

  std::vector<Entry> parse(std::string_view text) const {
    nlohmann::json header;
    try {
      header = parse_json(text);
    } catch (const std::exception& e) {
      fail(fmt::format("the header is not valid JSON: {}", e.what()));
    }
    if (!header.is_object()) fail("the header is not a JSON object");
    std::vector<Entry> out;
    for (const auto& [key, value] : header.items()) {
      if (key != "__metadata__") out.push_back(entry(key, value));
    }
    check_layout(out);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& hint = {}) const {
    throw WeightError(fmt::format("{}: {}", path_.string(), what), hint);
  }

  static bool is_count(const nlohmann::json& v) {
    return v.is_number_unsigned() &&
           v.get<std::uint64_t>() <=
               static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  }

  Entry entry(const std::string& name, const nlohmann::json& v) const {
    Entry out;
    out.name = name;
    if (!v.is_object() || !v.contains("dtype") || !v.contains("shape") ||
        !v.contains("data_offsets")) {
      fail(fmt::format("tensor {}: expected dtype, shape and data_offsets in the header", name));
    }
    if (!v["dtype"].is_string() || !parse_dtype(v["dtype"].get<std::string>(), out.dtype)) {
      fail(fmt::format("tensor {}: unknown dtype {}", name, v["dtype"].dump()),
           "known: F64 F32 F16 BF16 F8_E4M3 F8_E8M0 I64 I32 I16 I8 U8 BOOL");
    }
    const auto& shape = v["shape"];
    const auto& offsets = v["data_offsets"];
    if (!shape.is_array() || !std::ranges::all_of(shape, is_count)) {
      fail(fmt::format("tensor {}: shape is {}, expected an array of sizes", name, shape.dump()));
    }
    if (!offsets.is_array() || offsets.size() != 2 || !std::ranges::all_of(offsets, is_count)) {
      fail(fmt::format("tensor {}: data_offsets are {}, expected [begin, end]", name,
                       offsets.dump()));
    }
    out.shape = shape.get<std::vector<std::int64_t>>();
    out.begin = offsets[0].get<std::uint64_t>();
    out.end = offsets[1].get<std::uint64_t>();
    check_size(out);
    return out;
  }

  void check_size(const Entry& e) const {
    if (e.begin > e.end) {
      fail(fmt::format("tensor {}: data_offsets [{}, {}] run backwards", e.name, e.begin, e.end));
    }
    if (e.end > data_bytes_) {
      fail(
          fmt::format("tensor {}: ends at byte {} of the data, but the file holds {} bytes of data",
                      e.name, e.end, data_bytes_),
          fmt::format("truncated: expected {} more bytes; download the file again",
                      e.end - data_bytes_));
    }
    std::uint64_t bytes = size_of(e.dtype);
    for (const std::int64_t n : e.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(n), &bytes)) {
        fail(fmt::format("tensor {}: shape {} overflows", e.name, to_string(e.shape)));
      }
    }
    if (bytes != e.end - e.begin) {
      fail(fmt::format("tensor {}: {} {} needs {} bytes, data_offsets [{}, {}] hold {}", e.name,
                       name(e.dtype), to_string(e.shape), bytes, e.begin, e.end, e.end - e.begin));
    }
  }

  // The format allows neither overlaps nor holes: each tensor begins where one ends.
  void check_layout(std::vector<Entry>& entries) const {
    std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::uint64_t next = 0;
    const Entry* previous = nullptr;
    for (const Entry& e : entries) {
      if (e.begin < next) {
        fail(fmt::format("tensor {} [{}, {}] overlaps tensor {} [{}, {}]", e.name, e.begin, e.end,
                         previous->name, previous->begin, previous->end));
      }
      if (e.begin > next) {
        fail(fmt::format("bytes {} to {} of the data, before tensor {}, belong to no tensor", next,
                         e.begin, e.name));
      }
      next = e.end;
      previous = &e;
    }
    if (next != data_bytes_) {
      fail(fmt::format("{} bytes follow the last tensor: expected {} bytes of data, found {}",
                       data_bytes_ - next, next, data_bytes_));
    }
  }

  const std::filesystem::path& path_;
  std::uint64_t data_bytes_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const Mapping file = map_file(path);
  const std::string where = path.string();
  if (file.size < kLengthBytes) {
    throw WeightError(fmt::format("{}: truncated: expected at least {} bytes, found {}", where,
                                  kLengthBytes, file.size));
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data.get(), kLengthBytes);
  if (header_bytes > kMostHeaderBytes) {
    throw WeightError(fmt::format("{}: the header claims {} bytes, the limit is {}", where,
                                  header_bytes, kMostHeaderBytes),
                      "is this a safetensors file? a Git LFS pointer or a web page is not");
  }
  if (header_bytes > file.size - kLengthBytes) {
    throw WeightError(fmt::format("{}: truncated: expected {} bytes of header, found {}", where,
                                  header_bytes, file.size - kLengthBytes),
                      "download the file again");
  }
  map_ = file.data;
  const std::byte* header = map_.get() + kLengthBytes;
  const std::byte* data = header + header_bytes;
  const HeaderParser parser(path_, file.size - kLengthBytes - header_bytes);
  for (const Entry& e : parser.parse({reinterpret_cast<const char*>(header), header_bytes})) {
    tensors_[e.name] = {
        e.dtype, e.shape, {data + e.begin, static_cast<std::size_t>(e.end - e.begin)}};
  }
}

}  // namespace dsv4
