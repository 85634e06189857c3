// SPDX-License-Identifier: Apache-2.0
#include "cuda/isa_check/recorded.hpp"

#include <charconv>
#include <fmt/format.h>
#include <fstream>
#include <stdexcept>

namespace dsv4::isa_check {
namespace {

constexpr const char* kHeader = "case\tfirst\twords";
constexpr std::size_t kPerRow = 64;
constexpr std::size_t kDigits = 8;  // of a word

[[noreturn]] void refuse(const std::string& file, int line, const char* why) {
  throw std::invalid_argument(
      fmt::format("{}:{}: {}; make it anew with dsv4-isa-check --record", file, line, why));
}

}  // namespace

void write(const std::string& file, const Recorded& words) {
  std::ofstream out(file);
  out << kHeader << '\n';
  for (const auto& [name, values] : words) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % kPerRow == 0) out << name << '\t' << i << '\t';
      out << fmt::format("{:08x}", values[i]);
      if (i % kPerRow == kPerRow - 1 || i + 1 == values.size()) out << '\n';
    }
  }
  if (!out) throw std::invalid_argument(file + " cannot be written");
}

Recorded read(const std::string& file) {
  std::ifstream in(file);
  std::string text;
  if (!std::getline(in, text)) throw std::invalid_argument(file + " cannot be read");
  if (text != kHeader) refuse(file, 1, "expected the columns case, first, words");
  Recorded out;
  for (int line = 2; std::getline(in, text); ++line) {
    const auto name_end = text.find('\t');
    const auto digits = text.rfind('\t') + 1;
    if (name_end == std::string::npos || digits == name_end + 1) refuse(file, line, "no columns");
    Words& words = out[text.substr(0, name_end)];
    if (text.substr(name_end + 1, digits - name_end - 2) != std::to_string(words.size())) {
      refuse(file, line, "a row is missing before this one");
    }
    if ((text.size() - digits) % kDigits != 0) refuse(file, line, "a word is not whole");
    for (std::size_t i = digits; i < text.size(); i += kDigits) {
      std::uint32_t word = 0;
      const char* end = text.data() + i + kDigits;
      if (std::from_chars(text.data() + i, end, word, 16).ptr != end) {
        refuse(file, line, "no hexadecimal number");
      }
      words.push_back(word);
    }
  }
  return out;
}

std::string difference(const std::string& name, const Words& expected, const Words& found,
                       const char* whose, const char* who) {
  if (expected.size() != found.size()) {
    return fmt::format("{}: expected {} words ({}), found {} ({})", name, expected.size(), whose,
                       found.size(), who);
  }
  std::size_t count = 0, first = 0;
  for (std::size_t i = found.size(); i-- > 0;) {
    if (found[i] == expected[i]) continue;
    ++count;
    first = i;
  }
  if (count == 0) return "";
  return fmt::format(
      "{}: {} of {} words differ, the first at {}: expected {:08x} ({}), found {:08x} ({})", name,
      count, found.size(), first, expected[first], whose, found[first], who);
}

}  // namespace dsv4::isa_check
