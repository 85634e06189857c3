// SPDX-License-Identifier: Apache-2.0
// Where the official code rounds (core/sites.tsv), and what a port declares that it does there
// instead (core/arithmetics/*.json, or the user's own file).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/rounding.hpp"

namespace dsv4 {

// One place where the official code rounds: core/sites.tsv.
struct RoundingSite {
  std::string name;
  Format format = Format::none;
  std::string official;  // function and operation in the official code
};
const std::vector<RoundingSite>& rounding_sites();

// What adds up the products of a port's matrix multiplications: float32; tensor cores, which cut
// their sums instead of rounding them; or the FP8 tensor cores of Hopper, where both operands are
// codes, with the sum promoted to float32 every 128 products.
enum class Products : std::uint8_t { fp32, tensor_core, fp8_promoted };

std::string_view name(Products products);  // "tensor-core"

// What a port does on purpose where the official code rounds otherwise.
struct Arithmetic {
  std::string name, note;
  std::vector<std::pair<std::string, Format>> sites;  // glob of site names, the last match counts
  Products products = Products::fp32;

  Format at(std::string_view site, Format official) const;
};
// Bundled ones, by name: official, fp8-indexer, w4a16-experts, bf16-kv, fp32, tensor-core,
// fp8-promoted.
std::vector<std::string> bundled_arithmetics();
// A bundled name or a JSON file {"name", "note", "sites": {"attn.kv": "bf16", …},
// "products": "tensor-core"}. Throws UsageError for an unknown name, site, format or kind of
// products, with what is known.
Arithmetic load_arithmetic(const std::string& name_or_file);

}  // namespace dsv4
