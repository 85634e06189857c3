// SPDX-License-Identifier: Apache-2.0
#include "golden/hdf5_sizes.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.hpp"

namespace dsv4::golden::hdf5 {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1}
                                     << 20;  // the size of the library's chunk cache
constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 30;
// Two petabytes of float64: a larger product is damage, and would overflow what is computed from
// it.
constexpr std::int64_t kMaxCount = std::int64_t{1} << 48;

}  // namespace

std::size_t checked_count(std::span<const std::int64_t> shape, const std::string& where) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || extent > kMaxCount / std::max<std::int64_t>(count, 1)) {
      throw TraceError(fmt::format("{}: the shape [{}] is absurd", where, fmt::join(shape, ", ")));
    }
    count *= extent;
  }
  return static_cast<std::size_t>(count);
}

void check_sizes(const std::string& where, std::uint64_t logical, std::uint64_t stored,
                 std::uint64_t value_bytes, std::span<const std::uint64_t> chunk) {
  if (logical > 0 && stored == 0) {
    throw TraceError(where + ": expected values, found none: it was created but never written");
  }
  std::uint64_t chunk_bytes = value_bytes;
  for (const std::uint64_t extent : chunk) {
    // Library limits make each extent less than 2^32; the product stops before it can overflow.
    if (chunk_bytes <= kMaxChunkBytes)
      chunk_bytes *= std::min<std::uint64_t>(extent, std::uint64_t{1} << 32);
  }
  const bool impossible =
      logical > kMaxChunkBytes && logical / 1100 > stored;  // gzip: at best 1 : 1032
  if (chunk_bytes > kMaxChunkBytes || impossible) {
    throw TraceError(fmt::format("{}: {} bytes cannot come from {} stored ones in chunks of {}",
                                 where, logical, stored, chunk_bytes),
                     "the file is damaged, or its chunks exceed 1 GiB");
  }
}

std::vector<std::int64_t> chunk_shape(std::span<const std::int64_t> shape,
                                      std::size_t value_bytes) {
  std::vector<std::int64_t> chunk(shape.size());
  std::int64_t left = kChunkBytes / static_cast<std::int64_t>(value_bytes);
  for (std::size_t i = shape.size(); i-- > 0;) {
    chunk[i] = std::clamp<std::int64_t>(left, 1, shape[i]);
    left /= chunk[i];
  }
  return chunk;
}

std::string without_address(const std::string& message) {
  // "file write failed: time = …, errno = 28, error message = 'No space left on device', buf = …"
  const std::string mark = "error message = '";
  const auto begin = message.find(mark);
  if (begin == std::string::npos) return message;
  const auto from = begin + mark.size();
  return message.substr(from, message.find('\'', from) - from);
}

}  // namespace dsv4::golden::hdf5
