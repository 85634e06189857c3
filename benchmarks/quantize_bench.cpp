// SPDX-License-Identifier: Apache-2.0
// Quantising and dequantising 256 MiB of float32 in place, against memcpy of the same array, one
// thread each, by processor time. GB/s counts the array once, for memcpy too.
#include <benchmark/benchmark.h>
#include <cstring>
#include <random>
#include <vector>

#include "benchmarks/support.hpp"
#include "core/quantize.hpp"

namespace dsv4 {
namespace {

constexpr std::size_t kValues = std::size_t{1} << 26;

// Normal variates. Quantising is idempotent in place, and takes the same time whatever the values.
const std::vector<float>& values() {
  static const std::vector<float> x = [] {
    std::vector<float> out(kValues);
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    for (float& v : out) v = normal(random);
    return out;
  }();
  return x;
}

void array_rate(benchmark::State& state) {
  bench::rate(state, "GB/s", static_cast<double>(kValues * sizeof(float)));
}

void copy(benchmark::State& state) {
  std::vector<float> to(kValues);
  for ([[maybe_unused]] auto _ : state) {
    std::memcpy(to.data(), values().data(), kValues * sizeof(float));
    benchmark::ClobberMemory();
  }
  array_rate(state);
}
BENCHMARK(copy)->Name("memcpy")->Unit(benchmark::kMillisecond);

void quantize(benchmark::State& state, const BlockFormat& format) {
  std::vector<float> x = values();
  for ([[maybe_unused]] auto _ : state) {
    quantize_dequantize(format, x.data(), static_cast<std::int64_t>(kValues));
    benchmark::ClobberMemory();
  }
  array_rate(state);
}

void quantize_with_codes(benchmark::State& state, const BlockFormat& format) {
  std::vector<float> x = values();
  std::vector<std::uint8_t> codes(kValues);
  std::vector<std::uint8_t> scales(kValues / static_cast<std::size_t>(format.block));
  for ([[maybe_unused]] auto _ : state) {
    quantize_dequantize(format, x.data(), static_cast<std::int64_t>(kValues), codes.data(),
                        scales.data());
    benchmark::ClobberMemory();
  }
  array_rate(state);
}

#define DSV4_QUANTIZE(function, name, format) \
  BENCHMARK_CAPTURE(function, name, format)->Unit(benchmark::kMillisecond)
DSV4_QUANTIZE(quantize, FP8_1x128, kFp8Block128);
DSV4_QUANTIZE(quantize, FP8_1x64, kFp8Block64);
DSV4_QUANTIZE(quantize, FP4_1x32, kFp4Block32);
DSV4_QUANTIZE(quantize_with_codes, FP8_1x128, kFp8Block128);
DSV4_QUANTIZE(quantize_with_codes, FP4_1x32, kFp4Block32);

// The same number of bytes in float64.
void round_to_bf16(benchmark::State& state) {
  std::vector<Real> x(values().begin(), values().begin() + kValues / 2);
  for ([[maybe_unused]] auto _ : state) {
    round_bf16(x.data(), static_cast<std::int64_t>(x.size()));
    benchmark::ClobberMemory();
  }
  array_rate(state);
}
BENCHMARK(round_to_bf16)->Name("round_bf16")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dsv4
