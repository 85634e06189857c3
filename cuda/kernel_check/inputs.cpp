// SPDX-License-Identifier: Apache-2.0
#include "cuda/kernel_check/inputs.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/dtype.hpp"

namespace dsv4::kernel_check {

std::uint64_t Inputs::next() {
  std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

stages::Bf16s Inputs::bf16(std::size_t count) {
  stages::Bf16s out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t r = next();
    const auto sign = static_cast<std::uint16_t>(r & 0x8000U);
    const auto exponent = static_cast<std::uint16_t>(120 + (r >> 16) % 15);
    const auto mantissa = static_cast<std::uint16_t>(r >> 32 & 0x7FU);
    out[i] = static_cast<std::uint16_t>(sign | exponent << 7 | mantissa);
    if (i % 61 == 60) out[i] = i % 2 == 0 ? sign : static_cast<std::uint16_t>(sign | 0x437FU);
  }
  return out;
}

stages::Floats Inputs::floats(std::size_t count, float low, float high) {
  stages::Floats out(count);
  for (float& v : out) {
    v = low + (high - low) * static_cast<float>(next() >> 40) * 0x1p-24F;
  }
  return out;
}

std::vector<std::int32_t> Inputs::integers(std::size_t count, std::int32_t below) {
  std::vector<std::int32_t> out(count);
  for (auto& v : out) v = static_cast<std::int32_t>(next() % static_cast<std::uint64_t>(below));
  return out;
}

stages::Bytes Inputs::bytes(std::size_t count) {
  stages::Bytes out(count);
  for (auto& v : out) v = static_cast<std::uint8_t>(next() >> 56);
  return out;
}

stages::Bytes Inputs::e4m3(std::size_t count) {
  stages::Bytes out = bytes(count);
  for (auto& v : out) {
    if ((v & 0x7FU) == 0x7FU) v ^= 0x40U;
  }
  return out;
}

stages::Bytes Inputs::scales(std::size_t count) {
  stages::Bytes out(count);
  for (auto& v : out) v = static_cast<std::uint8_t>(120 + next() % 10);
  return out;
}

stages::Bf16s edges(std::size_t count) {
  constexpr std::array values{0.0F,    -0.0F,     1.0F,   -1.0F,  1.5F,   2.5F,   -3.5F, 5.0F,
                              0.25F,   0.75F,     448.0F, 464.0F, -480.F, 6.0F,   7.0F,  0x1p-126F,
                              0x1p-9F, 0x1.8p-9F, 1e-4F,  3e38F,  -3e38F, 1e-30F, 17.0F, 0x1p-133F};
  stages::Bf16s out(count);
  for (std::size_t i = 0; i < count; ++i) {
    // Each block of 128 begins elsewhere, and one in eight is small throughout.
    const std::size_t block = i / 128;
    const float v = values[(i * 7 + block) % values.size()];
    out[i] = encode_bf16(block % 8 == 7 ? v * 0x1p-40F : v);
  }
  if (count > 300) {
    out[300] = 0x7F80;  // infinity
    out[200] = 0x7FC1;  // NaN
  }
  return out;
}

namespace {

std::size_t size(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

}  // namespace

stages::Floats frequencies(int rope) {
  stages::Floats f(size(rope, 1) / 2);
  for (std::size_t i = 0; i < f.size(); ++i) {
    f[i] =
        static_cast<float>(std::pow(1e-4, static_cast<double>(i) / static_cast<double>(f.size())));
  }
  return f;
}

stages::MhcInput mhc_input(std::uint64_t seed, int n, int d, int tokens, int iterations, bool post,
                           bool pre) {
  Inputs draw(seed);
  stages::MhcInput in{n,  d,  tokens, iterations, 1e-6F, 1e-6F, {}, draw.bf16(size(tokens, n, d)),
                      {}, {}, {},     {},         {}};
  if (post) {
    in.y = draw.bf16(size(tokens, d));
    in.post = draw.floats(size(tokens, n), 0, 2);
    in.comb = draw.floats(size(tokens, n, n), 0, 1);
  }
  if (pre) {
    in.fn = draw.floats(size((2 + n) * n, n, d), -0.02F, 0.02F);
    in.base = draw.floats(size(2 + n, n), -1, 1);
    in.scale = draw.floats(3, 0.5F, 1.5F);
  }
  return in;
}

stages::CompressorInput compressor_input(std::uint64_t seed, int c, int rope, int ratio, int start,
                                         int tokens, float scores) {
  Inputs draw(seed);
  const int w = ratio == 4 ? 2 * c : c;
  const int rows = ratio == 4 ? 2 * ratio : ratio;
  stages::CompressorInput in;
  in.c = c;
  in.rope = rope;
  in.ratio = ratio;
  in.tokens = tokens;
  in.start = start;
  in.eps = 1e-6F;
  in.kv = draw.floats(size(tokens, w), -2, 2);
  in.score = draw.floats(size(tokens, w), -scores, scores);
  in.ape = draw.floats(size(ratio, w), -1, 1);
  in.kv_state = draw.floats(size(rows, w), -2, 2);
  in.score_state = draw.floats(size(rows, w), -scores, scores);
  in.norm = draw.floats(size(c, 1), 0.5F, 2);
  in.frequencies = frequencies(rope);
  return in;
}

}  // namespace dsv4::kernel_check
