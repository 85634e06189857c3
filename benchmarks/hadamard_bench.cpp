// SPDX-License-Identifier: Apache-2.0
// The Walsh-Hadamard transform of the indexer's queries: n log2 n additions a head.
#include <benchmark/benchmark.h>

#include "benchmarks/support.hpp"
#include "reference/hadamard.hpp"

namespace dsv4 {
namespace {

// Arguments: tokens. 64 heads of 128, as in Flash.
void hadamard(benchmark::State& state) {
  const Mat x = bench::random_matrix(state.range(0), Index{64} * 128);
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(reference::hadamard(x, 64));
  const auto values = static_cast<double>(x.size());
  bench::rate(state, "GFLOP/s", 7 * values);
  bench::rate(state, "GB/s", 2 * values * sizeof(Real));
}
BENCHMARK(hadamard)->ArgName("tokens")->Arg(1)->Arg(128);

}  // namespace
}  // namespace dsv4
