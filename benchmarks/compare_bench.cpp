// SPDX-License-Identifier: Apache-2.0
// Comparing rows in memory. GB/s counts both inputs, not the bound.
#include <benchmark/benchmark.h>
#include <vector>

#include "benchmarks/support.hpp"
#include "conformance/compare.hpp"

namespace dsv4 {
namespace {

// Arguments: values in a row; 2^20 values in all, all of them different by less than the bound.
void add_row(benchmark::State& state) {
  const auto width = static_cast<std::size_t>(state.range(0));
  const Mat x = bench::random_matrix(1, 1 << 20);
  const std::vector<double> ours(x.data(), x.data() + x.size());
  std::vector<double> theirs = ours;
  for (double& v : theirs) v *= 1 + 1e-15;
  const std::vector<double> bound(ours.size(), 1e-12);
  for ([[maybe_unused]] auto _ : state) {
    conformance::Comparison comparison;
    for (std::size_t i = 0; i < ours.size(); i += width) {
      comparison.add_row(static_cast<std::int64_t>(i / width), std::span(ours).subspan(i, width),
                         std::span(theirs).subspan(i, width), std::span(bound).subspan(i, width));
    }
    benchmark::DoNotOptimize(comparison.within());
  }
  bench::rate(state, "GB/s", 2.0 * static_cast<double>(ours.size() * sizeof(double)));
}
BENCHMARK(add_row)->ArgName("width")->Arg(128)->Arg(4096)->Arg(32768);

}  // namespace
}  // namespace dsv4
