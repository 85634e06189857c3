// SPDX-License-Identifier: Apache-2.0
// One query of Flash (64 heads of 512) over its window of 128 and the compressed entries it sees.
#include <benchmark/benchmark.h>
#include <numeric>
#include <vector>

#include "benchmarks/support.hpp"
#include "reference/attention.hpp"

namespace dsv4 {
namespace {

// Arguments: compressed entries: none, CSA's 512, HCA's at 65,536 and at 1,048,576 tokens.
void core_attention(benchmark::State& state) {
  const ModelConfig config = bench::flash();
  const Index c = config.head_dim;
  const Index count = state.range(0);
  const Mat q = bench::random_matrix(1, config.n_heads * c);
  const Mat raw = bench::random_matrix(config.window_size, c, 2);
  const Mat entries = bench::random_matrix(count, c, 3);
  const Row sink = bench::random_row(config.n_heads);
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  const reference::Sight sight{0, raw.rows(), order.data(), count};
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(reference::core_attention(q, raw, entries, sight, sink));
  }
  const auto seen = static_cast<double>(raw.size() + entries.size());
  bench::rate(state, "GFLOP/s", 4.0 * seen * static_cast<double>(config.n_heads));
  bench::rate(state, "GB/s", seen * sizeof(Real));
}
BENCHMARK(core_attention)
    ->ArgName("entries")
    ->Arg(0)
    ->Arg(512)
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dsv4
