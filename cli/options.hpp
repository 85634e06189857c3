// SPDX-License-Identifier: Apache-2.0
// What several subcommands parse the same way: ranges, token ids, rounding, and how an error
// becomes an exit code.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fmt/format.h>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace dsv4::cli {

// Far more than any context holds; larger numbers are typing errors, and sums must not overflow.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 28;

enum ExitCode { kAllPassed = 0, kDifference = 1, kBadInput = 2, kNothingCompared = 3 };

struct Range {
  std::int64_t first = 0;
  std::int64_t last = -1;
};
// "3" or "3-7"; UsageError names `option`.
Range parse_range(const std::string& text, const std::string& option);
// "5,3,1": positive integers.
std::vector<std::int64_t> parse_list(const std::string& text, const std::string& option);
// Token ids separated by white space or commas.
std::vector<std::int32_t> parse_ids(const std::string& text, const std::string& where);
std::vector<std::int32_t> read_ids(const std::filesystem::path& file);
// count ids, uniform over the vocabulary, the same for the same seed everywhere.
std::vector<std::int32_t> random_ids(std::int64_t count, std::uint64_t seed,
                                     std::int64_t vocab_size);

// A line of talk for a person, to stderr.
template <class... Args>
void say(bool quiet, fmt::format_string<Args...> format, Args&&... args) {
  if (!quiet) fmt::print(stderr, "dsv4: {}\n", fmt::format(format, std::forward<Args>(args)...));
}

// Runs `body`; prints an Error with its hint to stderr and returns 2.
int guarded(const std::function<int()>& body);

}  // namespace dsv4::cli
