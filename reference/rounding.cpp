// SPDX-License-Identifier: Apache-2.0
#include "reference/rounding.hpp"

#include <bit>
#include <vector>

#include "core/dtype.hpp"
#include "core/quantize.hpp"
#include "reference/parallel.hpp"

namespace dsv4::reference {
namespace {

Mat quantized(const BlockFormat& format, const ConstMatRef& x, Index columns) {
  Mat y = x;
  const bool parallel = worth_threads(x.size());
#pragma omp parallel for if (parallel)
  for (Index s = 0; s < y.rows(); ++s) {
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (Index i = 0; i < columns; ++i)
      row[static_cast<std::size_t>(i)] = static_cast<float>(y(s, i));
    quantize_dequantize(format, row.data(), columns);
    for (Index i = 0; i < columns; ++i)
      y(s, i) = static_cast<Real>(row[static_cast<std::size_t>(i)]);
  }
  return y;
}

// Uniform in [-1, 1), from the value itself: the same at any thread count and in any order.
Real share(std::uint64_t seed, Real value) {
  std::uint64_t z = std::bit_cast<std::uint64_t>(static_cast<double>(value)) + seed;
  for (const std::uint64_t factor : {0xbf58476d1ce4e5b9ULL, 0x94d049bb133111ebULL}) {
    z = (z ^ (z >> 30)) * factor;
  }
  return static_cast<Real>(static_cast<std::int64_t>(z ^ (z >> 31))) / Real(0x1p63);
}

}  // namespace

Stored Round::bf16(Mat x, Inside inside) const {
  if (!official_) return {std::move(x)};
  Mat y = x;
  round_bf16(y.data(), y.size());
  return {std::move(y), std::move(x), Grid::bf16, inside == Inside::roundings};
}

Mat Round::bf16_inside(Mat x, const ErrorScale& error) const {
  if (!official_) return x;
  if (perturbation_.seed != 0 && error) {
    const Mat e = error();
    for (Index i = 0; i < x.size(); ++i) {
      Real& v = x.data()[i];
      v += static_cast<Real>(perturbation_.unit) * share(perturbation_.seed, v) * e.data()[i];
    }
  }
  round_bf16(x.data(), x.size());
  return x;
}

Mat Round::e4m3(const ConstMatRef& x, int block, Index columns) const {
  if (!official_) return x;
  const BlockFormat& format = block == kFp8Block64.block ? kFp8Block64 : kFp8Block128;
  return quantized(format, x, columns < 0 ? x.cols() : columns);
}

Mat Round::e2m1(const ConstMatRef& x) const {
  return official_ ? quantized(kFp4Block32, x, x.cols()) : Mat(x);
}

}  // namespace dsv4::reference
