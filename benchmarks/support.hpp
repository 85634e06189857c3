// SPDX-License-Identifier: Apache-2.0
// What the benchmarks share: seeded inputs (matrices, weights in every stored format), the shapes
// of Flash, and rates.
#pragma once

#include <algorithm>
#include <benchmark/benchmark.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "core/config.hpp"
#include "core/embedded.hpp"
#include "core/tensor.hpp"
#include "core/weights.hpp"

namespace dsv4::bench {

inline ModelConfig flash() { return parse_config(official_config("flash"), "flash").config; }

// `amount` for each iteration, shown in units of 10^9 a second.
inline void rate(benchmark::State& state, const char* name, double amount) {
  state.counters[name] =
      benchmark::Counter(amount * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// Of one call.
inline double seconds_of(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

inline Mat random_matrix(Index rows, Index cols, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  return Mat::NullaryExpr(rows, cols,
                          [&](Index, Index) { return static_cast<Real>(normal(random)); });
}

inline Row random_row(Index n, unsigned seed = 1) { return random_matrix(1, n, seed).row(0); }

// A weight [rows, cols] with bytes of its own; every code is a finite number. Not copyable: the
// view points into it.
class RandomWeight {
 public:
  RandomWeight(DType dtype, Index rows, Index cols, unsigned seed = 1) {
    view_.dtype = dtype;
    view_.rows = rows;
    view_.cols = cols;
    view_.name = "random";
    data_.resize(static_cast<std::size_t>(rows * view_.row_bytes()));
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < data_.size(); ++i)
      data_[i] = code(dtype, i, static_cast<unsigned>(random()));
    view_.data = data_.data();
    const Index scales = dtype == DType::I8        ? rows * cols / 32
                         : dtype == DType::F8_E4M3 ? (rows + 127) / 128 * ((cols + 127) / 128)
                                                   : 0;
    for (Index i = 0; i < scales; ++i)
      scale_.push_back(static_cast<std::uint8_t>(118 + random() % 4));
    if (scales > 0) view_.scale = scale_.data();
  }
  RandomWeight(const RandomWeight&) = delete;
  RandomWeight& operator=(const RandomWeight&) = delete;

  const Weight& view() const { return view_; }
  double bytes() const { return static_cast<double>(data_.size() + scale_.size()); }

 private:
  // The upper byte of a BF16 or F32 holds the exponent: 2^-3 … 2^0, either sign.
  static std::byte code(DType dtype, std::size_t i, unsigned random) {
    const std::size_t width = size_of(dtype);
    if (dtype == DType::F8_E4M3)
      return static_cast<std::byte>(random % 127 | (random >> 16 & 0x80U));
    if (dtype == DType::I8 || i % width != width - 1) return static_cast<std::byte>(random);
    return static_cast<std::byte>(0x3EU | (random & 0x81U));
  }

  std::vector<std::byte> data_;
  std::vector<std::uint8_t> scale_;
  Weight view_;
};

}  // namespace dsv4::bench
