// SPDX-License-Identifier: Apache-2.0
// What a config and the weights themselves show.
#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <set>

#include "conformance/coverage_rules.hpp"

namespace dsv4::conformance {
namespace {

// A real checkpoint has hundreds of gigabytes; its bytes repeat long before this.
constexpr std::size_t kMostBytesRead = std::size_t{1} << 28;

const Finding kNoWeights{Reached::unknown, "needs the checkpoint"};

bool is_fp4(const std::string& name, const TensorView& t) {
  return t.dtype == DType::I8 && name.find(".ffn.experts.") != std::string::npos;
}

std::string shape_of(const std::string& name, const TensorView& t) {
  return fmt::format("{} [{}]", name, fmt::join(t.shape, ", "));
}

// The first FP8 matrix that satisfies `wanted(rows, cols)`.
template <class Wanted>
Finding fp8_matrix(const Evidence& e, Wanted wanted) {
  if (!e.model) return kNoWeights;
  for (const auto& [name, t] : e.model->tensors()) {
    if (t.dtype == DType::F8_E4M3 && t.shape.size() == 2 && wanted(t.shape[0], t.shape[1])) {
      return found(true, shape_of(name, t));
    }
  }
  return found(false, "no such F8_E4M3 matrix");
}

// Which of the 256 byte values occur in the tensors that `wanted(name, tensor)` selects.
template <class Wanted>
std::bitset<256> bytes_seen(const Checkpoint& model, Wanted wanted) {
  std::bitset<256> seen;
  std::size_t read = 0;
  for (const auto& [name, t] : model.tensors()) {
    if (!wanted(name, t)) continue;
    for (const std::byte b : t.bytes) seen.set(std::to_integer<std::size_t>(b));
    read += t.bytes.size();
    if (seen.all() || read > kMostBytesRead) break;
  }
  return seen;
}

Finding all_codes(const std::bitset<256>& seen, const std::vector<std::uint8_t>& codes,
                  std::string_view none) {
  if (seen.none()) return found(false, std::string(none));
  std::vector<std::string> missing;
  for (const std::uint8_t code : codes) {
    if (!seen.test(code)) missing.push_back(fmt::format("{:#04x}", code));
  }
  return found(missing.empty(), missing.empty()
                                    ? fmt::format("{} byte values occur", seen.count())
                                    : fmt::format("missing: {}", fmt::join(missing, " ")));
}

Finding fp4_codes(const Evidence& e) {
  if (!e.model) return kNoWeights;
  const auto seen = bytes_seen(*e.model, is_fp4);
  std::bitset<16> low, high;
  bool asymmetric = false;
  for (std::size_t b = 0; b < 256; ++b) {
    if (!seen.test(b)) continue;
    low.set(b & 15);
    high.set(b >> 4);
    asymmetric |= (b & 15) != (b >> 4);
  }
  return found(low.all() && high.all() && asymmetric,
               fmt::format("{} of 16 low, {} of 16 high codes occur", low.count(), high.count()));
}

Finding fp8_codes(const Evidence& e) {
  if (!e.model) return kNoWeights;
  const auto seen =
      bytes_seen(*e.model, [](const auto&, const auto& t) { return t.dtype == DType::F8_E4M3; });
  return all_codes(seen, {0x00, 0x80, 0x01, 0x81, 0x07, 0x08, 0x7e, 0xfe}, "no F8_E4M3 tensor");
}

Finding scale_codes(const Evidence& e) {
  if (!e.model) return kNoWeights;
  const auto seen =
      bytes_seen(*e.model, [](const auto&, const auto& t) { return t.dtype == DType::F8_E8M0; });
  if (seen.none()) return found(false, "no F8_E8M0 tensor");
  std::size_t least = 0, most = 255;
  while (!seen.test(least)) ++least;
  while (!seen.test(most)) --most;
  return found(seen.test(0) && seen.test(254),
               fmt::format("scale bytes {} … {} occur, expected 0 and 254", least, most));
}

Finding norm_weights(const Evidence& e) {
  if (!e.model) return kNoWeights;
  std::string negative, small;
  for (const auto& [name, t] : e.model->tensors()) {
    const bool norm = name.ends_with("norm.weight") && t.shape.size() == 1;
    if (!norm) continue;
    const Row w = e.model->vector(name);
    if (negative.empty() && (w.array() < 0).any()) negative = name;
    if (small.empty() && (w.array().abs() < 0.1).any()) small = name;
  }
  return found(!negative.empty() && !small.empty(),
               fmt::format("negative: {}; below 0.1: {}", negative.empty() ? "none" : negative,
                           small.empty() ? "none" : small));
}

Finding sinks(const Evidence& e) {
  if (!e.model) return kNoWeights;
  std::size_t tensors = 0, distinct = 0;
  for (const auto& [name, t] : e.model->tensors()) {
    if (!name.ends_with("attn_sink")) continue;
    const Row w = e.model->vector(name);
    ++tensors;
    distinct +=
        std::set<Real>(w.data(), w.data() + w.size()).size() == static_cast<std::size_t>(w.size())
            ? 1
            : 0;
  }
  return found(tensors > 0 && distinct == tensors,
               fmt::format("all different in {} of {} layers", distinct, tensors));
}

Finding layer_types(const Evidence& e) {
  std::array<int, 3> count{};
  for (std::int64_t l = 0; l < e.config->n_layers; ++l) {
    const std::int64_t ratio = e.config->ratio(l);
    ++count[ratio == 0 ? 0 : ModelConfig::overlaps(ratio) ? 1 : 2];
  }
  return found(count[0] > 0 && count[1] > 0 && count[2] > 0,
               fmt::format("{} window, {} CSA, {} HCA", count[0], count[1], count[2]));
}

Finding routing(const Evidence& e) {
  const std::int64_t hash = std::min(e.config->n_hash_layers, e.config->n_layers);
  return found(hash > 0 && hash < e.config->n_layers,
               fmt::format("{} hash, {} scored", hash, e.config->n_layers - hash));
}

// Equal sizes hide transposed axes and hard-coded numbers.
Finding distinct_sizes(const Evidence& e) {
  const ModelConfig& c = *e.config;
  const std::vector<std::int64_t> sizes{c.n_heads,       c.o_groups, c.n_heads / c.o_groups,
                                        c.index_n_heads, c.hc_mult,  c.n_activated_experts};
  const std::set<std::int64_t> distinct(sizes.begin(), sizes.end());
  const bool none_default = c.n_heads != 64 && c.n_heads != 128 && c.o_groups != 8 &&
                            c.o_groups != 16 && c.index_n_heads != 64 && c.hc_mult != 4 &&
                            c.n_activated_experts != 6;
  return found(
      distinct.size() == sizes.size() && none_default && !distinct.contains(4) &&
          !distinct.contains(128),
      fmt::format("heads {}, groups {} of {}, index heads {}, hc_mult {}, active experts {}",
                  c.n_heads, c.o_groups, sizes[2], c.index_n_heads, c.hc_mult,
                  c.n_activated_experts));
}

Finding hash_table(const Evidence& e) {
  if (!e.model) return kNoWeights;
  for (const auto& [name, t] : e.model->tensors()) {
    if (!name.ends_with("tid2eid")) continue;
    for (const std::int64_t expert : expert_table(t)) {
      if (bf16_cannot_hold(expert)) {
        return found(true, fmt::format("{} holds expert {}", name, expert));
      }
    }
  }
  return found(false, "no hash table with an odd expert number above 256");
}

}  // namespace

std::vector<Rule> model_rules() {
  return {
      {"fp8-blocks", "an FP8 matrix has several scale blocks on both axes",
       [](const Evidence& e) {
         return fp8_matrix(e, [](auto rows, auto cols) { return rows > 128 && cols > 128; });
       }},
      {"fp8-partial-block", "an FP8 matrix ends inside a scale block",
       [](const Evidence& e) {
         return fp8_matrix(e,
                           [](auto rows, auto cols) { return rows % 128 != 0 || cols % 128 != 0; });
       }},
      {"fp8-inputs", "the input of an FP8 matrix has several 1x128 blocks",
       [](const Evidence& e) { return fp8_matrix(e, [](auto, auto cols) { return cols > 128; }); }},
      {"fp4-codes",
       "every E2M1 code occurs in low and high nibbles, and bytes with two different ones",
       fp4_codes},
      {"fp8-codes", "E4M3 zeros, subnormals and both largest numbers occur", fp8_codes},
      {"scale-codes", "the first and the last E8M0 number occur", scale_codes},
      {"layer-types", "window, CSA and HCA layers occur", layer_types},
      {"routing", "hash and scored layers occur", routing},
      {"experts-300", "at least 300 experts",
       [](const Evidence& e) {
         return found(e.config->n_routed_experts >= 300,
                      fmt::format("{} experts", e.config->n_routed_experts));
       }},
      {"hash-ids-256", "a hash table has expert numbers above 256 that BF16 cannot hold",
       hash_table},
      {"distinct-sizes",
       "head, group, index head, stream and active expert counts differ from each other, the "
       "ratios and the defaults",
       distinct_sizes},
      {"o-groups", "the output projection has several groups",
       [](const Evidence& e) {
         return found(e.config->o_groups > 1, fmt::format("{} groups", e.config->o_groups));
       }},
      {"route-scale", "the routing scale is not 1",
       [](const Evidence& e) {
         return found(e.config->route_scale != 1, fmt::format("{}", e.config->route_scale));
       }},
      {"norm-weights", "norm weights change sign, and some are small", norm_weights},
      {"sinks", "the attention sinks of a layer differ from head to head", sinks},
  };
}

}  // namespace dsv4::conformance
