// SPDX-License-Identifier: Apache-2.0
#include "core/arithmetic.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "core/embedded.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/taps.hpp"

namespace dsv4 {
namespace {

constexpr std::array<std::string_view, 7> kBundled = {
    "official", "fp8-indexer", "w4a16-experts", "bf16-kv", "fp32", "tensor-core", "fp8-promoted"};
constexpr std::array<std::string_view, 3> kProducts = {"fp32", "tensor-core", "fp8-promoted"};

nlohmann::json parsed(const std::string& text, const std::string& where) {
  try {
    return parse_json(text);
  } catch (const std::exception& e) {
    throw UsageError(fmt::format("{}: not JSON: {}", where, e.what()));
  }
}

std::vector<RoundingSite> parse_sites(std::string_view tsv) {
  std::vector<RoundingSite> sites;
  std::istringstream in{std::string(tsv)};
  std::string line;
  std::getline(in, line);  // names the columns
  while (std::getline(in, line)) {
    const auto format = line.find('\t');
    const auto official = line.find('\t', format + 1);
    if (official == line.npos) throw std::logic_error("sites.tsv: not three columns");
    sites.push_back({line.substr(0, format),
                     parse_format(line.substr(format + 1, official - format - 1), "sites.tsv"),
                     line.substr(official + 1)});
  }
  return sites;
}

Products parse_products(const nlohmann::json& j, const std::string& where) {
  const std::string text = j.is_string() ? j.get<std::string>() : j.dump();
  const auto at = std::find(kProducts.begin(), kProducts.end(), text);
  if (at == kProducts.end()) {
    throw UsageError(fmt::format("{}: products: expected one of {}, found {}", where,
                                 fmt::join(kProducts, ", "), text));
  }
  return static_cast<Products>(at - kProducts.begin());
}

Arithmetic parse_arithmetic(const std::string& text, const std::string& where) {
  const nlohmann::json j = parsed(text, where);
  if (!j.is_object() || !j.contains("sites") || !j["sites"].is_object()) {
    throw UsageError(fmt::format("{}: expected an object with \"sites\"", where),
                     R"(for example {"name": "mine", "sites": {"attn.kv": "none"}})");
  }
  Arithmetic a{j.value("name", where), j.value("note", ""), {}};
  if (j.contains("products")) a.products = parse_products(j["products"], where);
  for (const auto& [glob, format] : j["sites"].items()) {
    const bool known =
        std::any_of(rounding_sites().begin(), rounding_sites().end(),
                    [&glob = glob](const RoundingSite& s) { return glob_match(glob, s.name); });
    if (!known) {
      throw UsageError(fmt::format("{}: no rounding site matches \"{}\"", where, glob),
                       "docs/rounding.md lists the sites");
    }
    if (!format.is_string())
      throw UsageError(fmt::format("{}: {}: expected the name of a format", where, glob));
    a.sites.emplace_back(glob, parse_format(format.get<std::string>(), where));
  }
  return a;
}

}  // namespace

std::string_view name(Products products) { return kProducts[static_cast<std::size_t>(products)]; }

const std::vector<RoundingSite>& rounding_sites() {
  static const auto sites = parse_sites(sites_tsv());
  return sites;
}

Format Arithmetic::at(std::string_view site, Format official) const {
  Format format = official;
  for (const auto& [glob, wanted] : sites) {
    if (glob_match(glob, site)) format = wanted;
  }
  return format;
}

std::vector<std::string> bundled_arithmetics() { return {kBundled.begin(), kBundled.end()}; }

Arithmetic load_arithmetic(const std::string& name_or_file) {
  if (const auto text = bundled_arithmetic(name_or_file); !text.empty())
    return parse_arithmetic(std::string(text), name_or_file);
  try {
    return parse_arithmetic(read_text_file(name_or_file), name_or_file);
  } catch (const IoError&) {
    throw UsageError(
        fmt::format("--arith {}: neither a bundled arithmetic nor a readable file", name_or_file),
        fmt::format("bundled: {}", fmt::join(kBundled, ", ")));
  }
}

}  // namespace dsv4
