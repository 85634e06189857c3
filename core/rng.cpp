// SPDX-License-Identifier: Apache-2.0
// SplitMix64 (Steele, Lea, Flood 2014) used as a hash of (seed, stream, counter).
#include "core/rng.hpp"

#include <cmath>
#include <numbers>

namespace dsv4 {
namespace {

constexpr std::uint64_t kGamma = 0x9e3779b97f4a7c15ULL;

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

}  // namespace

Rng::Rng(std::uint64_t seed, std::string_view stream)
    : key_(mix(mix(seed + kGamma) ^ fnv1a(stream))) {}

std::uint64_t Rng::bits(std::uint64_t i) const { return mix(key_ + (i + 1) * kGamma); }

double Rng::uniform(std::uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }

double Rng::normal(std::uint64_t i) const {
  const double u = 1.0 - uniform(2 * i);  // (0, 1]: the logarithm stays finite
  const double angle = 2.0 * std::numbers::pi * uniform(2 * i + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
}

}  // namespace dsv4
