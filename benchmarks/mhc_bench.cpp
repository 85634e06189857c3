// SPDX-License-Identifier: Apache-2.0
// Hyper-connections of Flash: 4 streams of 4096. Bound by moving the streams.
#include <benchmark/benchmark.h>

#include "benchmarks/support.hpp"
#include "reference/mhc.hpp"

namespace dsv4 {
namespace {

struct Setup {
  explicit Setup(Index tokens)
      : streams(bench::random_matrix(tokens, config.hc_mult * config.dim)),
        weights{fn.view(), bench::random_row(config.mix_size()), bench::random_row(3)} {}
  ModelConfig config = bench::flash();
  bench::RandomWeight fn{DType::F32, config.mix_size(), config.hc_mult* config.dim};
  Mat streams;
  reference::HcWeights weights;
};

double bytes(const Mat& m) { return static_cast<double>(m.size()) * sizeof(Real); }

// Reads the streams twice (mixes, collapse), writes one.
void hc_pre(benchmark::State& state) {
  const Setup s(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(reference::hc_pre(s.config, s.weights, s.streams, {}));
  }
  const auto n = static_cast<double>(s.config.hc_mult);
  bench::rate(state, "GFLOP/s", 2.0 * static_cast<double>(s.streams.size() * s.config.mix_size()));
  bench::rate(state, "GB/s", bytes(s.streams) * (2 + 1 / n));
}
BENCHMARK(hc_pre)
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(512)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Reads the streams and the sublayer's output, writes the streams.
void hc_post(benchmark::State& state) {
  const Setup s(state.range(0));
  const reference::HcMix mix = reference::hc_pre(s.config, s.weights, s.streams, {});
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(reference::hc_post(s.config, mix.x, s.streams, mix, {}));
  }
  const auto n = static_cast<double>(s.config.hc_mult);
  bench::rate(state, "GFLOP/s", 2.0 * (n + 1) * static_cast<double>(s.streams.size()));
  bench::rate(state, "GB/s", bytes(s.streams) * (2 + 1 / n));
}
BENCHMARK(hc_post)
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(512)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void sinkhorn(benchmark::State& state) {
  const Mat logits = bench::random_matrix(4, 4);
  for ([[maybe_unused]] auto _ : state)
    benchmark::DoNotOptimize(reference::sinkhorn(logits, 20, 1e-6));
}
BENCHMARK(sinkhorn);

}  // namespace
}  // namespace dsv4
