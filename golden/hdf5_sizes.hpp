// SPDX-License-Identifier: Apache-2.0
// What hdf5.cpp decides without the library: chunk shapes, and whether the sizes an untrusted file
// claims are possible at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dsv4::golden::hdf5 {

// The number of values of `shape`; TraceError when no file can hold that many.
std::size_t checked_count(std::span<const std::int64_t> shape, const std::string& where);

// TraceError when `logical` bytes cannot come from `stored` bytes, or a chunk would not fit in
// memory.
void check_sizes(const std::string& where, std::uint64_t logical, std::uint64_t stored,
                 std::uint64_t value_bytes, std::span<const std::uint64_t> chunk);

// A chunk of about 1 MiB for an array without empty axes; the last axes are kept whole first.
std::vector<std::int64_t> chunk_shape(std::span<const std::int64_t> shape, std::size_t value_bytes);

// The system's reason out of a message of the library, which also prints addresses and times.
std::string without_address(const std::string& message);

}  // namespace dsv4::golden::hdf5
