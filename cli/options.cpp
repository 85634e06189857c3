// SPDX-License-Identifier: Apache-2.0
#include "cli/options.hpp"

#include <charconv>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <new>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace dsv4::cli {
namespace {

constexpr std::string_view kSeparators = " \t\r\n,";

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  for (std::size_t at = text.find_first_not_of(kSeparators); at != text.npos;) {
    const std::size_t end = text.find_first_of(kSeparators, at);
    out.push_back(text.substr(at, end - at));
    at = end == text.npos ? end : text.find_first_not_of(kSeparators, end);
  }
  return out;
}

template <class Int>
bool parse_whole(std::string_view word, Int& value) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc{} && end == word.data() + word.size();
}

}  // namespace

Range parse_range(const std::string& text, const std::string& option) {
  const auto dash = text.find('-', 1);
  Range r;
  const std::string_view all(text);
  const bool ok =
      parse_whole(all.substr(0, dash), r.first) &&
      (dash == text.npos ? (r.last = r.first, true) : parse_whole(all.substr(dash + 1), r.last));
  if (!ok || r.first < 0 || r.last < r.first) {
    throw UsageError(fmt::format("{} {}: expected a number or a range such as 3-7", option, text));
  }
  return r;
}

std::vector<std::int64_t> parse_list(const std::string& text, const std::string& option) {
  std::vector<std::int64_t> out;
  for (const std::string_view word : words(text)) {
    std::int64_t value = 0;
    if (!parse_whole(word, value) || value <= 0) {
      throw UsageError(fmt::format("{} {}: \"{}\" is not a positive number", option, text, word));
    }
    if (value > kMostTokens) {
      throw UsageError(fmt::format("{} {}: expected at most {} tokens, found {}", option, text,
                                   kMostTokens, value));
    }
    out.push_back(value);
  }
  if (out.empty()) throw UsageError(fmt::format("{}: expected numbers such as 5,3,1", option));
  return out;
}

std::vector<std::int32_t> parse_ids(const std::string& text, const std::string& where) {
  std::vector<std::int32_t> ids;
  for (const std::string_view word : words(text)) {
    std::int32_t id = 0;
    if (!parse_whole(word, id)) {
      throw UsageError(
          fmt::format("{}: {:?} (id number {}) is not a token id", where, word, ids.size()),
          "ids are integers separated by white space or commas");
    }
    ids.push_back(id);
  }
  return ids;
}

std::vector<std::int32_t> read_ids(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw UsageError(fmt::format("--ids-file {}: cannot be read", file.string()));
  return parse_ids({std::istreambuf_iterator<char>(in), {}}, file.string());
}

std::vector<std::int32_t> random_ids(std::int64_t count, std::uint64_t seed,
                                     std::int64_t vocab_size) {
  const Rng rng(seed, "ids");
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(rng.uniform(static_cast<std::uint64_t>(i)) *
                                            static_cast<double>(vocab_size)));
  }
  return ids;
}

int guarded(const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& e) {
    fmt::print(stderr, "dsv4: error: {}\n", e.what());
    if (!e.hint().empty()) fmt::print(stderr, "dsv4: hint: {}\n", e.hint());
  } catch (const std::bad_alloc&) {
    fmt::print(
        stderr,
        "dsv4: error: out of memory\ndsv4: hint: shorter calls (--chunks) hold less at once\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsv4: error: {}\n", e.what());
  }
  return kBadInput;
}

}  // namespace dsv4::cli
