// SPDX-License-Identifier: Apache-2.0
// The switches of the planted bugs, and what a planted text may need to know about where it stands.
// Included by every file of the planted copy; never by the reference.
#pragma once

#include <bit>
#include <bitset>
#include <cmath>
#include <cstdint>

namespace dsv4_mutants {

constexpr std::size_t kMostBugs = 512;

inline std::bitset<kMostBugs>& switches() {
  static std::bitset<kMostBugs> thrown;
  return thrown;
}

// Where the bugs are noted whose text a run comes past, thrown or not; null: nobody asks. Runs with
// threads must not be asked.
inline std::bitset<kMostBugs>*& passed() {
  static std::bitset<kMostBugs>* to = nullptr;
  return to;
}

inline bool thrown(std::size_t bug) {
  if (passed() != nullptr) passed()->set(bug);
  return switches()[bug];
}

// Whether any of them changes how stored weights are read.
inline bool& codec_thrown() {
  static bool any = false;
  return any;
}

// Equal scores are chosen from as PyTorch does, in exact numerics too.
inline bool& torch_ties() {
  static bool on = false;
  return on;
}

// Which block is being computed. Helpers of several stages (rope, scores) are told by it apart.
struct Place {
  std::int64_t ratio = 0;
  std::int64_t layer = 0;
  std::int64_t start = 0;  // of the call
  std::int64_t rows = 0;
  double yarn_factor = 1;
  bool official = false;
};

inline Place& place() {
  static Place here;
  return here;
}

// The amplitude factor of YaRN's paper, which DeepSeek-V4 does not use.
inline double yarn_amplitude() {
  const double factor = place().yarn_factor;
  return place().ratio == 0 || factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0;
}

// To nearest BF16, by way of float32.
inline double to_bf16(double x) {
  auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000U;
  return static_cast<double>(std::bit_cast<float>(bits));
}

// E4M3FNUZ: bias 8, one NaN, no negative zero.
inline double fnuz(unsigned code) {
  if (code == 0x80) return std::nan("");
  const int exponent = static_cast<int>((code >> 3) & 15);
  const int mantissa = static_cast<int>(code & 7);
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -10) : std::ldexp(8 + mantissa, exponent - 11);
  return (code & 0x80) != 0 ? -value : value;
}

// The float16 next to x towards zero; for magnitudes that float16 holds as normal numbers.
inline float truncated_fp16(float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xFFFFE000U);
}

}  // namespace dsv4_mutants
