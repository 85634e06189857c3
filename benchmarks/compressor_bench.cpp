// SPDX-License-Identifier: Apache-2.0
// The compressors of Flash: CSA (ratio 4, overlapping groups) and HCA (ratio 128). Bound by their
// two products.
#include <benchmark/benchmark.h>

#include "benchmarks/support.hpp"
#include "reference/compressor.hpp"
#include "reference/rope.hpp"

namespace dsv4 {
namespace {

// Arguments: ratio, tokens.
void compress(benchmark::State& state) {
  const ModelConfig config = bench::flash();
  const std::int64_t ratio = state.range(0);
  const Index c = config.head_dim;
  const Index width = reference::GroupState::width(ratio, c);
  const bench::RandomWeight wkv(DType::BF16, width, config.dim, 2);
  const bench::RandomWeight wgate(DType::BF16, width, config.dim, 3);
  const reference::CompressorWeights w{bench::random_matrix(ratio, width), wkv.view(), wgate.view(),
                                       bench::random_row(c)};
  const Mat x = bench::random_matrix(state.range(1), config.dim) / 64;
  const Row frequencies = reference::rope_frequencies(config, ratio);
  for ([[maybe_unused]] auto _ : state) {
    reference::CompressorCache cache(ratio, c);
    reference::compress(config, ratio, w, frequencies, reference::EntryUse::attention, x, 0, cache,
                        {});
    benchmark::DoNotOptimize(cache.entries.count());
  }
  bench::rate(state, "GFLOP/s", 4.0 * static_cast<double>(x.size() * width));
  bench::rate(state, "GB/s", wkv.bytes() + wgate.bytes());
}
BENCHMARK(compress)
    ->ArgNames({"ratio", "tokens"})
    ->ArgsProduct({{4, 128}, {1, 512}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace dsv4
