// SPDX-License-Identifier: Apache-2.0
// What verify cannot see of a kernel because no golden reaches it: outputs against core's codecs
// and counted answers, not against another run of the kernel. Each check returns what is wrong, or
// nothing. The kernels pass them all (kernel_values_test.cpp), and the mutants that
// cuda/mutants/kernels.toml says so do not (tests/kernel_mutants).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dtype.hpp"
#include "core/quantize.hpp"
#include "cuda/emulator/machine.hpp"
#include "cuda/kernel_check/inputs.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::value_checks {

using kernel_check::Inputs;

// Codes and scales, also of zeros, ties, infinities and NaN. two_a_byte: the even one is low.
inline std::string quantiser(stages::Stages& device, stages::Quantizer which,
                             const BlockFormat& core, int rows, int columns) {
  const bool two_a_byte = which == stages::Quantizer::fp4_32;
  const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  for (const stages::Bf16s& x : {kernel_check::edges(count), Inputs(10).bf16(count)}) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = decode_bf16(x[i]);
    stages::Bytes codes(count), scales(count / static_cast<std::size_t>(core.block));
    quantize_dequantize(core, values.data(), static_cast<std::int64_t>(count), codes.data(),
                        scales.data());
    if (two_a_byte) {
      for (std::size_t i = 0; i < count / 2; ++i)
        codes[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
      codes.resize(count / 2);
    }
    const stages::Quantized q = device.quantize(which, x, rows, columns);
    if (q.scales != scales) return "scales are not those of core";
    if (q.codes != codes) return "codes are not those of core";
  }
  return {};
}

inline std::string fp4_codes(stages::Stages& device) {
  return quantiser(device, stages::Quantizer::fp4_32, kFp4Block32, 11, 128);
}

// The k largest of the kernel's own scores and the bias; the lower index among equals; a NaN counts
// as -infinity.
inline std::vector<std::int32_t> expected_choice(std::span<const float> scores,
                                                 std::span<const float> bias, int k) {
  std::vector<float> sum(scores.size());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i] = scores[i] + bias[i];
    if (std::isnan(sum[i])) sum[i] = -std::numeric_limits<float>::infinity();
  }
  std::vector<std::int32_t> order(sum.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return sum[static_cast<std::size_t>(a)] > sum[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(k));
  return order;
}

inline std::string choices(stages::Stages& device, const stages::GateInput& in) {
  const stages::GateOutput out = device.gate(in);
  const auto experts = static_cast<std::size_t>(in.experts), k = static_cast<std::size_t>(in.k);
  for (std::size_t t = 0; t < static_cast<std::size_t>(in.tokens); ++t) {
    const auto expected =
        expected_choice(std::span(out.scores).subspan(t * experts, experts), in.bias, in.k);
    for (std::size_t j = 0; j < k; ++j) {
      if (out.indices[t * k + j] != expected[j])
        return fmt::format("token {}, choice {}: expected {}, found {}", t, j, expected[j],
                           out.indices[t * k + j]);
    }
  }
  return {};
}

// Six different logits among 100 experts, so that every choice is made among equals.
inline std::string ties(stages::Stages& device) {
  stages::GateInput in;
  in.tokens = 5;
  in.experts = 100;
  in.k = 8;
  in.route_scale = 1.5F;
  in.bias.assign(100, 0.0F);
  for (const std::int32_t v : Inputs(13).integers(500, 6))
    in.logits.push_back(static_cast<float>(v));
  return choices(device, in);
}

// After a call that is longer than the window the ring holds its last tokens, each at (start +
// token) % window: 128 codes of the quantised dims, 32 rotated ones in BF16, a scale for 64 codes.
// Kernel: attention_inputs at c = 160, r_d = 32; Args: its arguments.
template <class Args, class Kernel>
std::string ring(Kernel&& kernel) {
  constexpr int kC = 160, kRope = 32, kPlain = kC - kRope, kBytes = 200;
  constexpr int kTokens = 11, kStart = 5, kWindow = 4;
  using Bf16 = std::remove_cv_t<std::remove_pointer_t<decltype(Args{}.kv)>>;
  Inputs draw(14);
  emulator::GlobalMemory memory;
  const auto input = [&](const char* name, const stages::Bf16s& v) {
    return reinterpret_cast<const Bf16*>(
        memory.make<std::uint16_t>(name, std::span<const std::uint16_t>(v)));
  };
  const auto weight = draw.floats(kC, 0.5F, 2), frequencies = draw.floats(kRope / 2, 0, 1);
  auto* roped = memory.make<std::uint16_t>("kv roped", std::size_t{kTokens} * kC);
  Args a{};
  a.q = input("q", draw.bf16(std::size_t{kTokens} * kC));
  a.kv = input("kv", draw.bf16(std::size_t{kTokens} * kC));
  a.kv_weight = memory.make<float>("weight", std::span<const float>(weight));
  a.frequencies = memory.make<float>("frequencies", std::span<const float>(frequencies));
  a.q_out = reinterpret_cast<Bf16*>(memory.make<std::uint16_t>("q out", std::size_t{kTokens} * kC));
  a.kv_roped = reinterpret_cast<Bf16*>(roped);
  a.cache = memory.make<std::uint8_t>("cache", std::size_t{kWindow} * kBytes);
  a.heads = 1;
  a.tokens = kTokens;
  a.start = kStart;
  a.window = kWindow;
  a.eps = 1e-6F;
  emulator::launch({{kTokens}, 64}, {}, memory, [&] { kernel(a); });

  for (int t = kTokens - kWindow; t < kTokens; ++t) {
    const std::uint16_t* row = roped + t * kC;
    std::vector<float> values(kPlain);
    for (std::size_t i = 0; i < kPlain; ++i) values[i] = decode_bf16(row[i]);
    stages::Bytes expected(kBytes), scales(kPlain / 64);
    quantize_dequantize(kFp8Block64, values.data(), kPlain, expected.data(), scales.data());
    std::memcpy(expected.data() + kPlain, row + kPlain, 2 * kRope);
    std::copy(scales.begin(), scales.end(), expected.begin() + kPlain + 2 * kRope);
    const std::size_t used = kPlain + 2 * kRope + scales.size();
    if (std::memcmp(expected.data(), a.cache + (kStart + t) % kWindow * kBytes, used) != 0)
      return fmt::format("row {} does not hold token {}", (kStart + t) % kWindow, t);
  }
  return {};
}

}  // namespace dsv4::value_checks
