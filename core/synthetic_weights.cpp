// SPDX-License-Identifier: Apache-2.0
// What the random numbers of a synthetic checkpoint look like, tensor by tensor.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fmt/format.h>

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/rng.hpp"
#include "core/synthetic.hpp"

namespace dsv4 {
namespace {

// The inverse of the normal distribution function by bisection: only tables are built with it.
double normal_quantile(double p) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// 4096 intervals of equal probability; a value is interpolated within one.
constexpr std::size_t kIntervals = 4096;
const std::array<float, kIntervals + 1>& quantiles() {
  static const auto table = [] {
    std::array<float, kIntervals + 1> t{};
    for (std::size_t i = 0; i <= kIntervals; ++i) {
      const double p = std::clamp(static_cast<double>(i) / kIntervals, 2e-5, 1 - 2e-5);
      t[i] = static_cast<float>(normal_quantile(p));
    }
    return t;
  }();
  return table;
}

float normal_from(std::uint32_t bits) {
  const auto& table = quantiles();
  const std::size_t i = bits >> 20;
  const float fraction = static_cast<float>(bits & 0xFFFFFU) * 0x1p-20F;
  return table[i] + (table[i + 1] - table[i]) * fraction;
}

std::uint8_t nearest_e4m3(double x) {
  std::uint8_t best = 0;
  for (int code = 0; code < 0x7F; ++code) {
    const auto c = static_cast<std::uint8_t>(code);
    if (std::fabs(decode_e4m3(c) - std::fabs(x)) < std::fabs(decode_e4m3(best) - std::fabs(x)))
      best = c;
  }
  return static_cast<std::uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

// E4M3 codes of normal numbers with deviation 110 (the largest then is near 448); one in 16 is any
// code at all, so that subnormals, both zeros and ±448 occur. Never NaN.
constexpr double kE4m3Std = 110;
constexpr std::size_t kCodes = 65536;
const std::vector<std::uint8_t>& e4m3_codes() {
  static const auto table = [] {
    std::vector<std::uint8_t> t(kCodes);
    std::vector<std::uint8_t> normal(kIntervals);
    for (std::size_t i = 0; i < kIntervals; ++i) {
      normal[i] =
          nearest_e4m3(kE4m3Std * normal_quantile((static_cast<double>(i) + 0.5) / kIntervals));
    }
    for (std::size_t i = 0; i < kCodes; ++i) {
      const auto any = static_cast<std::uint8_t>((i >> 4) & 255);
      t[i] = (i & 15) != 0          ? normal[i >> 4]
             : (any & 0x7F) == 0x7F ? static_cast<std::uint8_t>(any ^ 1)
                                    : any;
    }
    return t;
  }();
  return table;
}

std::uint16_t to_bf16(float x) {  // round to nearest, ties to even; x is finite
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Calls make(i) for each element of the slice and stores it in the tensor's dtype.
template <class Make>
void store(DType dtype, std::span<std::byte> bytes, std::size_t offset, Make make) {
  const std::size_t size = size_of(dtype);
  const std::size_t first = offset / size;
  for (std::size_t i = 0; i < bytes.size() / size; ++i) {
    const float value = make(first + i);
    if (dtype == DType::BF16) {
      const std::uint16_t code = to_bf16(value);
      std::memcpy(bytes.data() + 2 * i, &code, 2);
    } else {
      std::memcpy(bytes.data() + 4 * i, &value, 4);
    }
  }
}

void fill_words(const Rng& rng, std::span<std::byte> bytes, std::size_t offset) {
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    const std::uint64_t word = rng.bits((offset + i) / 8);
    std::memcpy(bytes.data() + i, &word, std::min<std::size_t>(8, bytes.size() - i));
  }
}

void fill_e4m3(const Rng& rng, std::span<std::byte> bytes, std::size_t offset) {
  const auto& table = e4m3_codes();
  for (std::size_t i = 0; i < bytes.size(); i += 4) {
    std::uint64_t word = rng.bits((offset + i) / 4);
    for (std::size_t k = i; k < std::min(i + 4, bytes.size()); ++k, word >>= 16) {
      bytes[k] = static_cast<std::byte>(table[word & 0xFFFF]);
    }
  }
}

// Exponents around the one that gives `std`: three values, so that no implementation gets away with
// one scale. Their mean square is 1.75 times that of the middle one.
void fill_scale(const Rng& rng, double code_std, double std, std::span<std::byte> bytes,
                std::size_t offset) {
  const double middle = std::log2(std / code_std / std::sqrt(1.75));
  const int code = static_cast<int>(std::lround(middle)) + 127;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const int jitter = static_cast<int>(rng.bits(offset + i) % 3) - 1;
    bytes[i] = static_cast<std::byte>(std::clamp(code + jitter, 1, 254));
  }
}

// Distinct experts for each token; the first slot walks through all of them.
void fill_table(const Rng& rng, const TensorSpec& spec, std::int64_t experts,
                std::span<std::byte> bytes, std::size_t offset) {
  const std::int64_t slots = spec.shape[1];
  std::vector<std::int64_t> row;
  const auto first = static_cast<std::int64_t>(offset / 8);
  for (std::int64_t i = first / slots * slots;
       i < first + static_cast<std::int64_t>(bytes.size() / 8); ++i) {
    const std::int64_t token = i / slots;
    if (i % slots == 0) row.clear();
    std::int64_t id = i % slots == 0 ? token % experts : -1;
    for (std::uint64_t attempt = 0; id < 0 || std::ranges::count(row, id) > 0; ++attempt) {
      const std::uint64_t counter = static_cast<std::uint64_t>(i) * 65536 + attempt;
      id = static_cast<std::int64_t>(rng.bits(counter) % static_cast<std::uint64_t>(experts));
    }
    row.push_back(id);
    if (i >= first) std::memcpy(bytes.data() + static_cast<std::size_t>(i - first) * 8, &id, 8);
  }
}

}  // namespace

SyntheticWeights::SyntheticWeights(const ModelConfig& config, std::uint64_t seed, bool ties)
    : config_(config), seed_(seed), ties_(ties) {}

// Deviation of a weight with `inputs` inputs of mean square near 1.75 (see the norms below).
double SyntheticWeights::weight_std(std::string_view stem, std::int64_t inputs) const {
  const double limit = config_.swiglu_limit > 0 ? config_.swiglu_limit : 3.0;
  const double gate =
      0.45 * limit;  // deviation of an expert's gate and up: the clamp is 2.2 of it away
  double gain = 1.0;
  if (stem.ends_with(".w1") || stem.ends_with(".w3")) gain = gate / std::sqrt(1.75);
  if (stem.ends_with(".w2")) gain = 1.0 / (gate * std::max(gate, 1.0) * 0.5);
  if (stem.ends_with(".gate")) gain = 1.2;
  if (stem.ends_with(".wo_b")) gain = 2.0;  // attention averages its values
  if (stem == "embed") return 1.0;
  return gain / std::sqrt(static_cast<double>(inputs));
}

// The number of inputs of a quantised linear layer, for its scale.
std::int64_t SyntheticWeights::inputs_of(std::string_view stem) const {
  const ModelConfig& c = config_;
  if (stem.ends_with(".wq_b")) return c.q_lora_rank;
  if (stem.ends_with(".wo_a")) return c.n_heads * c.head_dim / c.o_groups;
  if (stem.ends_with(".wo_b")) return c.o_groups * c.o_lora_rank;
  if (stem.ends_with(".w2")) return c.moe_inter_dim;
  return c.dim;
}

void SyntheticWeights::fill(const TensorSpec& spec, std::span<std::byte> bytes,
                            std::size_t offset) const {
  const Rng rng(seed_, spec.name);
  const std::string_view full = spec.name;
  const std::string_view stem = full.substr(0, full.rfind('.'));
  const auto normal = [&rng](std::size_t i) {
    const std::uint64_t word = rng.bits(i / 2);
    return normal_from(static_cast<std::uint32_t>(i % 2 == 0 ? word : word >> 32));
  };
  const auto plain = [&](double std) {
    const auto s = static_cast<float>(std);
    store(spec.dtype, bytes, offset, [&](std::size_t i) { return s * normal(i); });
  };
  const auto tied = [&](std::size_t i, std::size_t columns) {  // element i, or its twin's index
    return ties_ && i / columns % 8 == 1 ? i - columns : i;
  };

  switch (spec.dtype) {
    case DType::F8_E4M3:
      return fill_e4m3(rng, bytes, offset);
    case DType::I8:
      return fill_words(rng, bytes, offset);
    case DType::I64:
      return fill_table(rng, spec, config_.n_routed_experts, bytes, offset);
    case DType::F8_E8M0: {
      const bool fp4 = full.find(".experts.") != std::string_view::npos &&
                       config_.expert_format == WeightFormat::fp4;
      // 2.93: the root mean square of the sixteen E2M1 values.
      return fill_scale(rng, fp4 ? 2.93 : kE4m3Std, weight_std(stem, inputs_of(stem)), bytes,
                        offset);
    }
    default:
      break;
  }
  if (full.ends_with("_fn")) return plain(1.0 / std::sqrt(static_cast<double>(spec.shape[1])));
  if (full.ends_with("_base")) return plain(0.8);
  if (full.ends_with("_scale")) {  // gates of either sign, none near zero
    return store(spec.dtype, bytes, offset, [&](std::size_t i) {
      const auto u = static_cast<float>(rng.uniform(2 * i));
      return (rng.bits(2 * i + 1) % 4 == 0 ? -1.0F : 1.0F) * (0.4F + 0.8F * u);
    });
  }
  if (full.ends_with(".attn_sink")) return plain(1.5);
  if (full.ends_with(".ape")) return plain(0.7);
  if (full.ends_with(".gate.bias")) {
    return store(spec.dtype, bytes, offset,
                 [&](std::size_t i) { return 0.3F * normal(tied(i, 1)); });
  }
  if (spec.shape.size() == 1) {  // norms: mean square near 1.75, one in 20 negative, one in 20 tiny
    return store(spec.dtype, bytes, offset, [&](std::size_t i) {
      const auto u = static_cast<float>(rng.uniform(2 * i));
      const std::uint64_t kind = rng.bits(2 * i + 1) % 20;
      return (kind == 0 ? -1.0F : kind == 1 ? 0.03F : 1.0F) * (0.5F + 1.5F * u);
    });
  }
  const double std = weight_std(stem, spec.shape[1]);
  if (stem.ends_with(".gate")) {
    const auto columns = static_cast<std::size_t>(spec.shape[1]);
    // One row in 16 is loud: its logits pass both ends of softplus (below -16, above 20).
    const auto scale = [&](std::size_t row) {
      return static_cast<float>(row % 16 == 5 ? 12 * std : std);
    };
    return store(spec.dtype, bytes, offset,
                 [&](std::size_t i) { return scale(i / columns) * normal(tied(i, columns)); });
  }
  plain(std);
}

}  // namespace dsv4
