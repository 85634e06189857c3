// SPDX-License-Identifier: Apache-2.0
#include "reference/rounding.hpp"

#include <bit>
#include <vector>

#include "core/arithmetic.hpp"
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

Mat rounded(Format format, const ConstMatRef& x, Index columns) {
  if (columns < 0) columns = x.cols();
  switch (format) {
    case Format::fp8_1x128:
      return quantized(kFp8Block128, x, columns);
    case Format::fp8_1x64:
      return quantized(kFp8Block64, x, columns);
    case Format::fp4_1x32:
      return quantized(kFp4Block32, x, columns);
    case Format::bf16:
    case Format::fp32:
      return x.unaryExpr([format](Real v) { return stored(format, v); });
    case Format::none:
      break;
  }
  return x;
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

Round Round::perturbed(const Perturbation& p) const {
  Round other = *this;
  other.numerics_.perturbation = p;
  return other;
}

Format Round::at(std::string_view site, Format official) const {
  if (numerics_.rounding == Rounding::exact) return Format::none;
  return numerics_.arithmetic ? numerics_.arithmetic->at(site, official) : official;
}

Stored Round::bf16(std::string_view site, Mat x, Inside inside) const {
  const Format format = at(site, Format::bf16);
  const bool composite = official() && inside == Inside::roundings;
  if (format == Format::none) return {std::move(x), {}, Format::none, composite};
  Mat y = rounded(format, x, -1);
  // A quantised value has no grid that is known beforehand: its scale comes from its neighbours.
  if (!has_grid(format)) return {std::move(y), {}, Format::none, true};
  return {std::move(y), std::move(x), format, composite};
}

Mat Round::bf16_inside(std::string_view site, Mat x, const ErrorScale& error) const {
  if (!official()) return x;
  const Perturbation& p = numerics_.perturbation;
  if (p.seed != 0 && error) {
    const Mat e = error();
    for (Index i = 0; i < x.size(); ++i) {
      Real& v = x.data()[i];
      v += static_cast<Real>(p.unit) * share(p.seed, v) * e.data()[i];
    }
  }
  return rounded(at(site, Format::bf16), x, -1);
}

Stored Round::quantised(std::string_view site, Format official, const ConstMatRef& x,
                        Index columns) const {
  if (columns < 0) columns = x.cols();
  const Format format = at(site, official);
  return {rounded(format, x, columns), format == Format::none ? Mat() : Mat(x), format, false,
          columns};
}

Stored Round::e4m3(std::string_view site, const ConstMatRef& x, int block, Index columns) const {
  return quantised(site, block == 64 ? Format::fp8_1x64 : Format::fp8_1x128, x, columns);
}

Stored Round::e2m1(std::string_view site, const ConstMatRef& x) const {
  return quantised(site, Format::fp4_1x32, x, -1);
}

Real Round::fp32(std::string_view site, Real x) const { return stored(at(site, Format::fp32), x); }

}  // namespace dsv4::reference
