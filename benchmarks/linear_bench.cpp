// SPDX-License-Identifier: Apache-2.0
// y = x W^T with W as stored, against OpenBLAS dgemm with W already in float64. Both run in turn
// inside each iteration, with the same number of threads, so that a busy machine slows both;
// `of_dgemm` is the median of the ratios of their times, above 1 where ours is faster. `decode` is
// a few tokens times a weight much larger than the caches, against a plain sum of as many bytes.
#include <algorithm>
#include <benchmark/benchmark.h>
#include <chrono>
#include <cstdint>
#include <vector>

#ifdef DSV4_OPENBLAS
#include <cblas.h>
#endif
#include <omp.h>

#include "benchmarks/support.hpp"
#include "reference/linear.hpp"

namespace dsv4 {
namespace {

using bench::median;
using bench::seconds_of;

// Arguments: tokens M, inputs K, outputs N.
void linear(benchmark::State& state, DType dtype) {
  const Index m = state.range(0);
  const Index k = state.range(1);
  const Index n = state.range(2);
  const Mat x = bench::random_matrix(m, k);
  const bench::RandomWeight w(dtype, n, k);
  const double flops = 2.0 * static_cast<double>(m * k * n);
  Mat y;
  std::vector<double> ours;
#ifdef DSV4_OPENBLAS
  openblas_set_num_threads(omp_get_max_threads());
  Mat wide(n, k);
  dequantize(w.view(), 0, n, 0, k, wide.data(), k);
  Mat z(m, n);
  std::vector<double> theirs, ratio;
#endif
  for ([[maybe_unused]] auto _ : state) {
    ours.push_back(seconds_of([&] { y = reference::linear(x, w.view()); }));
    benchmark::DoNotOptimize(y.data());
    state.SetIterationTime(ours.back());
#ifdef DSV4_OPENBLAS
    theirs.push_back(seconds_of([&] {
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(m), static_cast<int>(n),
                  static_cast<int>(k), 1.0, x.data(), static_cast<int>(k), wide.data(),
                  static_cast<int>(k), 0.0, z.data(), static_cast<int>(n));
    }));
    benchmark::DoNotOptimize(z.data());
    ratio.push_back(theirs.back() / ours.back());
#endif
  }
  state.counters["GFLOP/s"] = flops / median(ours) * 1e-9;
  state.counters["GB/s"] = w.bytes() / median(ours) * 1e-9;  // of stored weight
#ifdef DSV4_OPENBLAS
  if ((y - z).cwiseAbs().maxCoeff() > 1e-12 * static_cast<double>(k) * z.cwiseAbs().maxCoeff()) {
    state.SkipWithError("the two products differ");
  }
  state.counters["dgemm_GFLOP/s"] = flops / median(theirs) * 1e-9;
  state.counters["of_dgemm"] = median(ratio);
#endif
}

// The sum of an array, eight bytes at a time: reading and next to nothing else.
std::uint64_t read_all(const std::vector<std::uint64_t>& words) {
  std::uint64_t sum = 0;
#pragma omp parallel for simd reduction(+ : sum)
  for (std::size_t i = 0; i < words.size(); ++i) sum += words[i];
  return sum;
}

// Arguments: tokens M, threads. A weight of 256 MB; `of_read` is the median of the ratios.
void decode(benchmark::State& state, DType dtype) {
  constexpr Index kInputs = 4096;
  const Index m = state.range(0);
  const int all_threads = omp_get_max_threads();
  omp_set_num_threads(static_cast<int>(state.range(1)));
  const bench::RandomWeight w(dtype, dtype == DType::I8 ? 131072 : 65536, kInputs);
  const std::vector<std::uint64_t> array(static_cast<std::size_t>(w.bytes()) / 8, 1);
  const Mat x = bench::random_matrix(m, kInputs);
  std::vector<double> ours, reading, ratio;
  for ([[maybe_unused]] auto _ : state) {
    ours.push_back(
        seconds_of([&] { benchmark::DoNotOptimize(reference::linear(x, w.view()).data()); }));
    reading.push_back(seconds_of([&] { benchmark::DoNotOptimize(read_all(array)); }));
    ratio.push_back(reading.back() / ours.back());
    state.SetIterationTime(ours.back());
  }
  state.counters["GB/s"] = w.bytes() / median(ours) * 1e-9;
  state.counters["read_GB/s"] = w.bytes() / median(reading) * 1e-9;
  state.counters["of_read"] = median(ratio);
  omp_set_num_threads(all_threads);
}

void decode_arguments(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "threads"})->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(9);
  b->ArgsProduct({{1, 2, 4}, {1, 2}});
}

BENCHMARK_CAPTURE(decode, FP8, DType::F8_E4M3)->Apply(decode_arguments);
BENCHMARK_CAPTURE(decode, FP4, DType::I8)->Apply(decode_arguments);

// The shapes of Flash: wq_b, wo_b, w1/w3, w2 and a compressor or gate.
void flash_shapes(benchmark::internal::Benchmark* b,
                  const std::vector<std::pair<Index, Index>>& shapes) {
  b->ArgNames({"M", "K", "N"})->UseManualTime()->Unit(benchmark::kMillisecond);
  for (const auto& [k, n] : shapes) {
    for (const Index m : {1, 4, 8, 32, 256, 512}) b->Args({m, k, n});
  }
}

BENCHMARK_CAPTURE(linear, FP8, DType::F8_E4M3)->Apply([](benchmark::internal::Benchmark* b) {
  flash_shapes(b, {{1024, 32768}, {8192, 4096}, {4096, 1024}});
});
BENCHMARK_CAPTURE(linear, FP4, DType::I8)->Apply([](benchmark::internal::Benchmark* b) {
  flash_shapes(b, {{4096, 2048}, {2048, 4096}});
});
BENCHMARK_CAPTURE(linear, BF16, DType::BF16)->Apply([](benchmark::internal::Benchmark* b) {
  flash_shapes(b, {{4096, 1024}});
});
BENCHMARK_CAPTURE(linear, F32, DType::F32)->Apply([](benchmark::internal::Benchmark* b) {
  flash_shapes(b, {{4096, 1024}});
});

}  // namespace
}  // namespace dsv4
