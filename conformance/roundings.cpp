// SPDX-License-Identifier: Apache-2.0
#include "conformance/roundings.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <string_view>

namespace dsv4::conformance {
namespace {

enum class Kind { norm, product, quantised, transform };

// terms: of the sum behind the stage. single: the share of its E that is no sum, in units of
// E / terms (docs/tolerance.md, "BF16 and float16").
struct Entry {
  Kind kind;
  std::int64_t (*terms)(const ModelConfig&);
  double single = 1;
};

constexpr auto d = [](const ModelConfig& c) { return c.dim; };
constexpr auto q = [](const ModelConfig& c) { return c.q_lora_rank; };
constexpr auto c = [](const ModelConfig& m) { return m.head_dim; };
constexpr auto j = [](const ModelConfig& m) { return m.index_head_dim; };
constexpr auto f = [](const ModelConfig& m) { return m.moe_inter_dim; };
constexpr auto nd = [](const ModelConfig& m) { return m.hc_mult * m.dim; };
constexpr auto ij = [](const ModelConfig& m) { return m.index_n_heads + m.index_head_dim; };
constexpr auto hc_g = [](const ModelConfig& m) { return m.n_heads * m.head_dim / m.o_groups; };
constexpr auto gr = [](const ModelConfig& m) { return m.o_groups * m.o_lora_rank; };

constexpr double kNorm = 10;   // E / n is half the value; divide, add, rsqrt, two products
constexpr double kScaled = 3;  // a product whose sum is scaled twice

// Names within a block, or whole.
const std::map<std::string_view, Entry>& sums() {
  static const std::map<std::string_view, Entry> table{
      {"hc_attn.mixes", {Kind::product, nd, kScaled}},
      {"hc_ffn.mixes", {Kind::product, nd, kScaled}},
      {"attn_norm.out", {Kind::norm, d, kNorm}},
      {"ffn_norm.out", {Kind::norm, d, kNorm}},
      {"norm.out", {Kind::norm, d, kNorm}},
      {"enorm.out", {Kind::norm, d, kNorm}},
      {"hnorm.out", {Kind::norm, d, kNorm}},
      {"attn.wq_a.out", {Kind::quantised, d}},
      {"attn.qr", {Kind::norm, q, kNorm}},
      {"attn.wq_b.out", {Kind::quantised, q}},
      {"attn.q_normed", {Kind::norm, c, kNorm}},
      {"attn.wkv.out", {Kind::quantised, d}},
      {"attn.kv_normed", {Kind::norm, c, kNorm}},
      {"attn.compressor.kv_proj", {Kind::product, d}},
      {"attn.compressor.score", {Kind::product, d}},
      {"attn.compressor.normed", {Kind::norm, c, kNorm}},
      {"attn.indexer.compressor.kv_proj", {Kind::product, d}},
      {"attn.indexer.compressor.score", {Kind::product, d}},
      {"attn.indexer.compressor.normed", {Kind::norm, j, kNorm}},
      {"attn.indexer.compressor.rotated", {Kind::transform, j}},
      {"attn.indexer.wq_b.out", {Kind::quantised, q}},
      {"attn.indexer.q_rotated", {Kind::transform, j}},
      {"attn.indexer.weights", {Kind::product, d, kScaled}},
      {"attn.indexer.index_score", {Kind::product, ij, kScaled}},
      {"attn.o_lora", {Kind::product, hc_g}},
      {"attn.out", {Kind::quantised, gr}},
      {"ffn.gate.logits", {Kind::product, d}},
      {"ffn.experts.E.gate", {Kind::quantised, d}},
      {"ffn.experts.E.up", {Kind::quantised, d}},
      {"ffn.experts.E.out", {Kind::quantised, f}},
      {"logits", {Kind::product, d}},
      {"logits_all", {Kind::product, d}},
      {"e_proj.out", {Kind::quantised, d}},
      {"h_proj.out", {Kind::quantised, d}},
  };
  return table;
}

// Stages of several sums in a row: what is stored between them.
const std::map<std::string_view, int>& chains() {
  static const std::map<std::string_view, int> table{
      {"attn.o", 2},       // score, probability
      {"attn.lse", 1},     // score
      {"ffn.shared", 3},   // gate, up, hidden
      {"hc_head.pre", 1},  // mixes
  };
  return table;
}

// Slots that a pooled entry is a weighted sum of.
std::int64_t slots(std::int64_t ratio) {
  return (ModelConfig::overlaps(ratio) ? 2 : 1) * std::max<std::int64_t>(1, ratio);
}

// Sinkhorn's: at least so many, one after the other.
std::int64_t sinkhorn_roundings(const ModelConfig& m) {
  return 6 * (m.hc_mult + 4) + 2 * m.hc_sinkhorn_iters * (m.hc_mult + 2);
}

// So many independent roundings exceed three times the root of their number once in 10^7.
constexpr double kProbable = 3;

std::string_view within_block(std::string_view name) {
  for (const std::string_view prefix : {"layers.L.", "mtp.J."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

constexpr double kFloat32 = 0x1p-24;
constexpr double kTensorCore = (16 * 0x1p-25 + 0x1p-23) / 16;  // per term
constexpr double kFp8TensorCore = 4 * 34 * 0x1p-13;            // of all terms

}  // namespace

Sum sum_behind(const TapMatch& tap, const ModelConfig& config) {
  if (tap.info->beside) return {};
  const std::string_view name = within_block(tap.info->name);
  const std::int64_t ratio = tap.block >= 0 ? config.ratio(tap.block) : 0;
  if (name.ends_with(".pooled")) {
    // Score, bias, maximum, exponential, quotient, for scores up to 13: 2 * (slots + score + 3).
    const auto n = static_cast<double>(slots(ratio));
    return {0, false, false, 16 / (n + 16), 0};
  }
  if (name.ends_with(".comb")) {
    const auto n = static_cast<double>(sinkhorn_roundings(config));
    return {0, false, false, std::min(1.0, kProbable / std::sqrt(n)), 0};
  }
  if (const auto chain = chains().find(name); chain != chains().end())
    return {0, false, false, 1, chain->second};
  const auto it = sums().find(name);
  if (it == sums().end()) return {};
  const auto [kind, terms, single] = it->second;
  const std::int64_t n = terms(config);
  const double share = std::min(1.0, single / static_cast<double>(n));
  const bool product = kind == Kind::product || kind == Kind::quantised;
  return {n, product, kind == Kind::quantised, share, 0};
}

RoundingModel rounding_model(const Sum& sum, Products products, double unit) {
  if (sum.terms == 0) return {unit, 1, 1};
  const auto n = static_cast<double>(sum.terms);
  RoundingModel m{unit, 1 / std::sqrt(3 * n), 0};
  if (!sum.product || products == Products::fp32) return m;
  double cut = kTensorCore;
  if (products == Products::fp8_promoted && sum.quantised)
    cut = kFp8TensorCore / n + kFloat32 / 128;
  m.unit = std::max(unit, cut);
  m.lean = cut / m.unit;
  m.typical = std::hypot(m.typical, m.lean);
  return m;
}

void ErrorStatistics::add_row(std::span<const Element> row) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const Element& e : row) {
    if (!(e.typical > 0) || !std::isfinite(e.typical) || !std::isfinite(e.error)) continue;
    const double z = e.error / e.typical;
    squares_ += z * z;
    sum_ += z;
    lean_ += e.lean / e.typical;
    ++count_;
    const double weight = 1 / (e.typical * e.typical);
    weights_ += weight;
    weighted_ += weight * e.value;
    weighted_squares_ += weight * e.value * e.value;
    for (const double v : {e.error, e.typical})
      hash = (hash ^ std::bit_cast<std::uint64_t>(v)) * 0x100000001b3;
  }
  if (!row.empty()) rows_.insert(hash);
}

double ErrorStatistics::rms() const {
  return count_ == 0 ? 0 : std::sqrt(squares_ / static_cast<double>(count_));
}

double ErrorStatistics::bias() const {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

double ErrorStatistics::rms_bound() const {
  // The mean of n squares of a normal variable spreads by sqrt(2 / n).
  const auto rows = static_cast<double>(std::max<std::size_t>(1, rows_.size()));
  return 2 * std::sqrt(1 + 4 * std::sqrt(2 / rows));
}

double ErrorStatistics::bias_bound() const {
  const auto rows = static_cast<double>(std::max<std::size_t>(1, rows_.size()));
  return (count_ == 0 ? 0 : lean_ / static_cast<double>(count_)) + 4 / std::sqrt(rows);
}

// The least sum of squares is that of the weighted mean.
bool ErrorStatistics::constant_within() const {
  if (!judged()) return true;
  const double least = weighted_squares_ - weighted_ * weighted_ / weights_;
  return std::sqrt(std::max(0.0, least) / static_cast<double>(count_)) <= rms_bound();
}

bool ErrorStatistics::within() const {
  return !judged() || (rms() <= rms_bound() && std::abs(bias()) <= bias_bound());
}

}  // namespace dsv4::conformance
