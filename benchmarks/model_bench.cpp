// SPDX-License-Identifier: Apache-2.0
// The whole model of the preset `engine` (real head, RoPE, index and window sizes, small widths),
// head included: a prompt at once, and one more token. Layers of true size: layer_bench.
#include <benchmark/benchmark.h>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "benchmarks/support.hpp"
#include "core/synthetic.hpp"
#include "core/weights.hpp"
#include "reference/memory.hpp"
#include "reference/model.hpp"

namespace dsv4 {
namespace {

// A checkpoint that is removed again.
class Engine {
 public:
  Engine()
      : dir_(std::filesystem::temp_directory_path() /
             fmt::format("dsv4-model-bench-{}", getpid())) {
    reference::keep_freed_memory();
    SyntheticOptions options;
    options.seed = 1;
    write_synthetic_checkpoint(synthetic_preset("engine"), dir_, options);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  const std::filesystem::path& dir() const { return dir_; }

 private:
  std::filesystem::path dir_;
};

const Checkpoint& checkpoint() {
  static const Engine engine;
  static const Checkpoint opened = Checkpoint::open(engine.dir());
  return opened;
}

std::vector<std::int32_t> some_ids(std::int64_t n) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>(i * 7919 % checkpoint().config().vocab_size));
  }
  return ids;
}

void tokens_per_second(benchmark::State& state, std::int64_t tokens) {
  state.SetItemsProcessed(state.iterations() * tokens);
}

// Arguments: tokens.
void prefill(benchmark::State& state) {
  const reference::Model model(checkpoint());
  const auto ids = some_ids(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    reference::KvCache cache = model.new_cache();
    benchmark::DoNotOptimize(model.forward(ids, state.range(0), cache));
  }
  tokens_per_second(state, state.range(0));
}
BENCHMARK(prefill)
    ->ArgName("tokens")
    ->Arg(128)
    ->Arg(512)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Arguments: tokens before the one that is timed.
void decode(benchmark::State& state) {
  const reference::Model model(checkpoint());
  const auto ids = some_ids(state.range(0) + 1);
  reference::KvCache filled = model.new_cache();
  model.forward(ids, state.range(0), filled);
  for ([[maybe_unused]] auto _ : state) {
    state.PauseTiming();
    reference::KvCache cache = filled;
    state.ResumeTiming();
    benchmark::DoNotOptimize(model.forward(ids, state.range(0) + 1, cache));
  }
  tokens_per_second(state, 1);
}
BENCHMARK(decode)
    ->ArgName("after")
    ->Arg(127)
    ->Arg(511)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// Official numerics against exact ones, in turn; `of_exact` is the median of the ratios of times.
void official(benchmark::State& state) {
  const reference::Model exact(checkpoint());
  const reference::Model rounded(checkpoint(), -1, Numerics{Rounding::official, {}, {}});
  const auto ids = some_ids(state.range(0));
  const auto seconds = [&](const reference::Model& model) {
    reference::KvCache cache = model.new_cache();
    return bench::seconds_of(
        [&] { benchmark::DoNotOptimize(model.forward(ids, state.range(0), cache)); });
  };
  std::vector<double> ratios;
  for ([[maybe_unused]] auto _ : state) {
    const double base = seconds(exact);
    const double ours = seconds(rounded);
    state.SetIterationTime(ours);
    ratios.push_back(ours / base);
  }
  state.counters["of_exact"] = bench::median(ratios);
}
BENCHMARK(official)
    ->ArgName("tokens")
    ->Arg(1)
    ->Arg(128)
    ->Arg(512)
    ->Unit(benchmark::kMillisecond)
    ->UseManualTime()
    ->Iterations(7);

}  // namespace
}  // namespace dsv4
