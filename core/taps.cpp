// SPDX-License-Identifier: Apache-2.0
#include "core/taps.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <stdexcept>

#include "core/embedded.hpp"
#include "core/text.hpp"

namespace dsv4 {
namespace {

// Rows such as "<tap>.margin" describe what may be written beside a tap; nothing else is known
// beside those that neither decide nor quantise.
constexpr std::string_view kAnyTap = "<tap>";

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t from = 0;;) {
    const std::size_t to = text.find(separator, from);
    parts.emplace_back(text.substr(from, to - from));
    if (to == std::string_view::npos) return parts;
    from = to + 1;
  }
}

std::string join(const std::vector<std::string>& parts, char separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (&part != &parts.front()) text += separator;
    text += part;
  }
  return text;
}

// Beside a tap that decides stands its margin, beside a quantised one its codes and scales, and
// their margins. They read what the tap reads.
void add_beside(std::vector<TapInfo>& table, const TapInfo& tap, bool quantised) {
  const auto add = [&](const char* leaf, const char* dtype, std::vector<std::string> axes) {
    TapInfo beside = tap;
    beside.name += leaf;
    beside.dtype = dtype;
    beside.axes = std::move(axes);
    beside.optional = true;
    beside.beside = true;
    table.push_back(std::move(beside));
  };
  if (!quantised) return add(".margin", "fp64", {tap.axes[0]});
  const std::vector<std::string> per_block{tap.axes[0], "blocks"};
  add(".code", "uint8", tap.axes);
  add(".margin", "fp64", tap.axes);
  add(".scale", "uint8", per_block);
  add(".scale.margin", "fp64", per_block);
}

std::vector<TapInfo> parse_table(std::string_view tsv) {
  std::vector<TapInfo> table;
  std::vector<std::string> lines = split(tsv, '\n');
  for (std::size_t i = 1; i < lines.size(); ++i) {  // line 0 names the columns
    if (lines[i].empty()) continue;
    const auto cells = split(lines[i], '\t');
    if (cells.size() != 7) throw std::logic_error("taps.tsv: not seven columns: " + lines[i]);
    TapInfo tap;
    tap.name = cells[0];
    tap.dtype = cells[2];
    tap.site = cells[3];
    tap.eq = cells[4];
    tap.inputs = cells[6];
    tap.order = static_cast<int>(i);
    if (cells[1] != "as the tap") tap.axes = split(cells[1], ',');
    tap.optional = cells[5].find("optional") != std::string::npos ||
                   cells[5].find("only when asked") != std::string::npos ||
                   tap.name.find(".experts.") != std::string::npos;
    const bool quantised = cells[5].find("quantise-dequantise") != std::string::npos;
    const bool decides = tap.name.ends_with(".topk_idxs") || tap.name.ends_with(".gate.indices") ||
                         tap.name == "logits_all";
    table.push_back(tap);
    if (quantised || decides) add_beside(table, tap, quantised);
  }
  return table;
}

// "0", "17", but not "03", "+3" or "99999999999": each block has one name.
std::optional<int> canonical_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  if (!whole || value < 0 || (text.size() > 1 && text.front() == '0')) return std::nullopt;
  return value;
}

// What the letters of a template stand for in one full name, as text.
struct Numbers {
  std::string layer, mtp, expert;

  std::string& of(std::string_view letter) {
    return letter == "L" ? layer : letter == "J" ? mtp : expert;
  }
};

// "layers.3.ffn.experts.17.up" -> "layers.L.ffn.experts.E.up".
std::string to_template(std::string_view full_name, Numbers& numbers) {
  constexpr std::array<std::array<std::string_view, 2>, 3> kLetters{
      {{"layers", "L"}, {"mtp", "J"}, {"experts", "E"}}};
  auto parts = split(full_name, '.');
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    for (const auto& [scope, letter] : kLetters) {
      const bool digits = !parts[i + 1].empty() &&
                          parts[i + 1].find_first_not_of("0123456789") == std::string::npos;
      if (parts[i] != scope || !digits) continue;
      numbers.of(letter) = parts[i + 1];
      parts[i + 1] = letter;
    }
  }
  return join(parts, '.');
}

const TapInfo* lookup(std::string_view template_name) {
  static const auto index = [] {
    std::map<std::string_view, const TapInfo*> by_name;
    for (const TapInfo& tap : taps()) by_name.emplace(tap.name, &tap);
    return by_name;
  }();
  const auto found = index.find(template_name);
  if (found != index.end()) return found->second;
  const std::size_t dot = template_name.rfind('.');
  const auto stem = index.find(template_name.substr(0, dot));
  if (dot == std::string_view::npos || stem == index.end() || stem->second->beside) return nullptr;
  const auto beside = index.find(std::string(kAnyTap).append(template_name.substr(dot)));
  return beside != index.end() ? beside->second : nullptr;
}

}  // namespace

const std::vector<TapInfo>& taps() {
  static const std::vector<TapInfo> table = parse_table(taps_tsv());
  return table;
}

std::optional<TapMatch> find_tap(std::string_view full_name, int n_layers) {
  for (const std::string& part : split(full_name, '.')) {
    if (part == "L" || part == "J" || part == "E" || part == kAnyTap) return std::nullopt;
  }
  Numbers numbers;
  TapMatch match;
  match.info = lookup(to_template(full_name, numbers));
  if (!match.info) return std::nullopt;
  if (!numbers.expert.empty()) {
    const auto e = canonical_number(numbers.expert);
    if (!e) return std::nullopt;
    match.expert = *e;
  }
  if (!numbers.layer.empty() || !numbers.mtp.empty()) {
    match.mtp = numbers.layer.empty();
    const auto i = canonical_number(match.mtp ? numbers.mtp : numbers.layer);
    if (!i || (!match.mtp && *i >= n_layers)) return std::nullopt;
    match.index = *i;
    match.block = match.mtp ? n_layers + *i : *i;
  }
  return match;
}

std::string nearest_tap(std::string_view full_name) {
  static const auto names = [] {
    std::vector<std::string> all;
    for (const TapInfo& tap : taps()) {
      if (!tap.name.starts_with(kAnyTap)) all.push_back(tap.name);
    }
    return all;
  }();
  Numbers numbers;
  auto parts = split(nearest(to_template(full_name, numbers), names), '.');
  for (std::string& part : parts) {
    if (part != "L" && part != "J" && part != "E") continue;
    if (const std::string& number = numbers.of(part); !number.empty()) part = number;
  }
  return join(parts, '.');
}

bool glob_match(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0;
  std::size_t star = std::string_view::npos, star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {  // let the last star take one character more
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace dsv4
