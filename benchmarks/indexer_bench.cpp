// SPDX-License-Identifier: Apache-2.0
// The indexer of Flash: 64 heads of 128 score every entry, and the best 512 are kept.
#include <benchmark/benchmark.h>

#include "benchmarks/support.hpp"
#include "reference/indexer.hpp"
#include "reference/rope.hpp"

namespace dsv4 {
namespace {

// Arguments: entries in the cache (a quarter of the context). Eight queries at its end.
void index(benchmark::State& state) {
  const ModelConfig config = bench::flash();
  const Index j = config.index_head_dim;
  const Index heads = config.index_n_heads;
  const Index width = reference::GroupState::width(4, j);
  const Index queries = 8;
  const bench::RandomWeight wq_b(DType::F8_E4M3, heads * j, config.q_lora_rank);
  const bench::RandomWeight proj(DType::BF16, heads, config.dim);
  const bench::RandomWeight wkv(DType::BF16, width, config.dim);
  const bench::RandomWeight wgate(DType::BF16, width, config.dim);
  const reference::IndexerWeights w{
      wq_b.view(),
      proj.view(),
      {bench::random_matrix(4, width), wkv.view(), wgate.view(), bench::random_row(j)}};
  const Mat x = bench::random_matrix(queries, config.dim) / 64;
  const Mat qr = bench::random_matrix(queries, config.q_lora_rank);
  const Row frequencies = reference::rope_frequencies(config, 4);
  reference::CompressorCache filled(4, j);
  filled.entries.append(bench::random_matrix(state.range(0), j));
  for ([[maybe_unused]] auto _ : state) {
    reference::CompressorCache cache = filled;
    benchmark::DoNotOptimize(
        reference::index(config, w, frequencies, x, qr, 4 * state.range(0), cache, {}));
  }
  const auto keys = static_cast<double>(state.range(0) * j);
  const auto weights =
      static_cast<double>(heads * j * config.q_lora_rank + (heads + 2 * width) * config.dim);
  bench::rate(state, "GFLOP/s",
              2.0 * static_cast<double>(queries) * (keys * static_cast<double>(heads) + weights));
  bench::rate(state, "GB/s", keys * sizeof(Real));  // of keys
}
BENCHMARK(index)
    ->ArgName("entries")
    ->Arg(1024)
    ->Arg(16384)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void top_k(benchmark::State& state) {
  const Mat scores = bench::random_matrix(8, state.range(0));
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(reference::top_k(scores, 512));
  bench::rate(state, "GB/s", static_cast<double>(scores.size()) * sizeof(Real));
}
BENCHMARK(top_k)->ArgName("entries")->Arg(1024)->Arg(16384)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dsv4
