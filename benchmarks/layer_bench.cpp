// SPDX-License-Identifier: Apache-2.0
// A prompt through real layers of a checkpoint, without the head: seconds, tokens per second and
// the memory beyond the mapped file. Not a Google Benchmark program: one run takes seconds to
// minutes and its memory matters. `dsv4 make-model` writes the checkpoints; without --model a small
// one is made and removed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <omp.h>
#include <optional>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/rng.hpp"
#include "core/synthetic.hpp"
#include "core/weights.hpp"
#include "reference/memory.hpp"
#include "reference/model.hpp"

namespace dsv4 {
namespace {

// Anonymous resident memory: the mapped checkpoint is not part of it.
double rss_anon_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) / 1000;
  }
  return 0;
}

// Asks every 5 ms and keeps the largest answer.
class MemoryPeak {
 public:
  MemoryPeak() : watcher_([this] { watch(); }) {}
  ~MemoryPeak() { stop(); }
  MemoryPeak(const MemoryPeak&) = delete;
  MemoryPeak& operator=(const MemoryPeak&) = delete;
  double stop() {
    done_ = true;
    if (watcher_.joinable()) watcher_.join();
    return peak_;
  }

 private:
  void watch() {
    while (!done_) {
      peak_ = std::max(peak_, rss_anon_mb());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::atomic<bool> done_ = false;
  double peak_ = 0;
  std::thread watcher_;
};

struct Options {
  std::string model;
  std::int64_t tokens = 512, chunk = 0, decode = 0, repeat = 1;
};

struct Step {
  std::int64_t end = 0;
  std::int64_t count = 0;
  double seconds = 0;
  double memory_mb = 0;
  double caches_mb = 0;
};

double entries_mb(const reference::KvCache& cache) {
  double values = 0;
  for (const auto& block : cache.blocks) {
    for (const auto& c : block.compressor) values += static_cast<double>(c.entries.view().size());
    for (const auto& c : block.indexer) values += static_cast<double>(c.entries.view().size());
  }
  return values * sizeof(Real) * 1e-6;
}

std::vector<Step> run(const reference::Model& model, const std::vector<std::int32_t>& ids,
                      const Options& o) {
  reference::KvCache cache = model.new_cache();
  reference::ForwardOptions options;
  options.last_layer = model.config().n_layers - 1;
  std::vector<Step> steps;
  const std::int64_t chunk = o.chunk > 0 ? o.chunk : o.tokens;
  for (std::int64_t at = 0; at < o.tokens + o.decode;) {
    const std::int64_t count = at < o.tokens ? std::min(chunk, o.tokens - at) : 1;
    const auto start = std::chrono::steady_clock::now();
    model.forward(ids, at + count, cache, {}, options);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    at += count;
    steps.push_back({at, count, seconds.count(), rss_anon_mb(), entries_mb(cache)});
  }
  return steps;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Seconds per token = a + b t, t the middle of a chunk: the median of all slopes between two
// chunks, then of what is left, so that a chunk during which the machine did something else counts
// little.
void print_growth(const std::vector<Step>& steps) {
  fmt::print("\n|      tokens |  ms/token | RssAnon MB | entries MB |\n|---|---|---|---|\n");
  std::vector<double> t, y, slopes, rest, since_last_row;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Step& s = steps[i];
    t.push_back(static_cast<double>(s.end) - 0.5 * static_cast<double>(s.count));
    y.push_back(s.seconds / static_cast<double>(s.count));
    for (std::size_t j = 0; j < i; ++j) slopes.push_back((y[i] - y[j]) / (t[i] - t[j]));
    since_last_row.push_back(y[i]);
    const bool power = (s.end & (s.end - 1)) == 0;
    if (!power && i + 1 < steps.size()) continue;
    fmt::print("| {:11} | {:9.3f} | {:10.0f} | {:10.0f} |\n", s.end, 1e3 * median(since_last_row),
               s.memory_mb, s.caches_mb);
    since_last_row.clear();
  }
  const double b = median(slopes);
  for (std::size_t i = 0; i < t.size(); ++i) rest.push_back(y[i] - b * t[i]);
  fmt::print("\nms/token: median of the chunks since the row above");
  fmt::print("\nper token: {:.3f} ms + {:.3f} us per 1000 tokens of context\n", 1e3 * median(rest),
             1e9 * b);
}

void measure(const Options& o) {
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  const reference::Model model(checkpoint, checkpoint.config().n_layers - 1);
  const Rng rng(1, "ids");
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < o.tokens + o.decode; ++i) {
    const double u = rng.uniform(static_cast<std::uint64_t>(i));
    ids.push_back(
        static_cast<std::int32_t>(u * static_cast<double>(checkpoint.config().vocab_size)));
  }
  fmt::print("{} layers, {} experts, {} threads, {:.0f} MB mapped\n", checkpoint.config().n_layers,
             checkpoint.config().n_routed_experts, omp_get_max_threads(),
             static_cast<double>(checkpoint.total_bytes()) * 1e-6);
  MemoryPeak peak;
  std::vector<double> prefill, decode;
  for (std::int64_t r = 0; r < o.repeat; ++r) {
    const std::vector<Step> steps = run(model, ids, o);
    double seconds = 0;
    for (const Step& s : steps) {
      if (s.end <= o.tokens) seconds += s.seconds;
      if (s.end > o.tokens) decode.push_back(s.seconds);
    }
    prefill.push_back(seconds);
    fmt::print("prefill {} tokens: {:.3f} s\n", o.tokens, seconds);
    if (o.chunk > 0 && o.chunk < o.tokens) print_growth(steps);
  }
  fmt::print("median prefill {:.3f} s, {:.1f} tokens/s", median(prefill),
             static_cast<double>(o.tokens) / median(prefill));
  if (!decode.empty()) fmt::print("; median decode {:.2f} ms per token", 1e3 * median(decode));
  fmt::print("; peak RssAnon {:.0f} MB\n", peak.stop());
}

int run(int argc, char** argv) {
  Options o;
  CLI::App app("Times a prompt through the layers of a checkpoint");
  app.add_option("--model", o.model, "Checkpoint directory; default: a small synthetic one");
  app.add_option("--tokens", o.tokens, "Prompt length")->capture_default_str();
  app.add_option("--chunk", o.chunk,
                 "Prefill in chunks of this length, and print how the cost grows");
  app.add_option("--decode", o.decode, "Then so many tokens one by one");
  app.add_option("--repeat", o.repeat, "How often")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  reference::keep_freed_memory();
  std::optional<std::filesystem::path> made;
  if (o.model.empty()) {
    made = std::filesystem::temp_directory_path() / fmt::format("dsv4-layer-bench-{}", getpid());
    SyntheticOptions options;
    options.seed = 1;
    write_synthetic_checkpoint(synthetic_preset("engine"), *made, options);
    o.model = made->string();
  }
  measure(o);
  if (made) std::filesystem::remove_all(*made);
  return 0;
}

}  // namespace
}  // namespace dsv4

int main(int argc, char** argv) {
  try {
    return dsv4::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "layer_bench: %s\n", e.what());
    return 2;
  }
}
