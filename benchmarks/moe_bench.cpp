// SPDX-License-Identifier: Apache-2.0
// The experts of a Flash block (FP4, [2048, 4096]), 16 of them and the shared one. A prompt is
// bound by the products, a single token by decoding the weights of the 6 + 1 experts it visits.
#include <benchmark/benchmark.h>
#include <deque>
#include <vector>

#include "benchmarks/support.hpp"
#include "reference/experts.hpp"

namespace dsv4 {
namespace {

void moe(benchmark::State& state) {
  ModelConfig config = bench::flash();
  config.n_routed_experts = 16;
  const Index d = config.dim;
  const Index f = config.moe_inter_dim;
  const Index tokens = state.range(0);
  std::deque<bench::RandomWeight> store;
  const auto weight = [&](DType dtype, Index rows, Index cols) {
    return store.emplace_back(dtype, rows, cols, static_cast<unsigned>(store.size())).view();
  };
  const auto expert = [&](DType dtype) {
    return reference::ExpertWeights{weight(dtype, f, d), weight(dtype, d, f), weight(dtype, f, d)};
  };
  reference::MoeWeights w;
  w.gate.weight = weight(DType::BF16, config.n_routed_experts, d);
  w.gate.bias = bench::random_row(config.n_routed_experts);
  for (Index e = 0; e < config.n_routed_experts; ++e) w.experts.push_back(expert(DType::I8));
  w.shared_experts = expert(DType::F8_E4M3);
  const double expert_bytes = store[1].bytes() * 3;
  const double shared_bytes = store.back().bytes() * 3;
  const Mat x = bench::random_matrix(tokens, d) / 64;
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 0);
  for ([[maybe_unused]] auto _ : state)
    benchmark::DoNotOptimize(reference::moe(config, w, x, ids, {}));
  const auto visits = static_cast<double>(tokens * (config.n_activated_experts + 1));
  bench::rate(state, "GFLOP/s", visits * 6.0 * static_cast<double>(d * f));
  // A token reads 6 experts, many read all 16.
  const double experts = tokens == 1 ? static_cast<double>(config.n_activated_experts) : 16;
  bench::rate(state, "GB/s", experts * expert_bytes + shared_bytes);
}
BENCHMARK(moe)->ArgName("tokens")->Arg(1)->Arg(512)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace dsv4
