// SPDX-License-Identifier: Apache-2.0
#include "reference/linear.hpp"


#include <algorithm>
#include <fmt/format.h>
#include <stdexcept>
#include <vector>

#include "reference/parallel.hpp"

namespace dsv4::reference {
namespace {

// Tiles of the output. A tile of W is dequantised once per tile of x, so x tiles are tall.
constexpr Index kTokens = 512;
constexpr Index kOutputs = 128;  // the height of an FP8 scale block
// Up to this many tokens the product is bound by reading W: each row is decoded into the L1 cache
// and used there.
constexpr Index kFewTokens = 8;
constexpr Index kSlice = 1024;

template <bool kMagnitude>
void few_tokens(const ConstMatRef& x, const Weight& w, Index row, Index count, Eigen::Ref<Mat> y) {
  std::vector<Real> buffer(static_cast<std::size_t>(kSlice));
  for (Index n = 0; n < count; ++n) {
    y.col(n).setZero();
    for (Index k = 0; k < w.cols; k += kSlice) {
      const Index width = std::min<Index>(kSlice, w.cols - k);
      dequantize(w, row + n, 1, k, width, buffer.data(), kSlice);
      const Eigen::Map<const Row> slice(buffer.data(), width);
      for (Index m = 0; m < x.rows(); ++m) {
        if constexpr (kMagnitude) {
          y(m, n) += x.row(m).segment(k, width).cwiseAbs().dot(slice.cwiseAbs());
        } else {
          y(m, n) += x.row(m).segment(k, width).dot(slice);
        }
      }
    }
  }
}

template <bool kMagnitude>
void many_tokens(const ConstMatRef& x, const Weight& w, Index row, Index count, Eigen::Ref<Mat> y) {
  Mat tile(count, w.cols);
  dequantize(w, row, count, 0, w.cols, tile.data(), w.cols);
  if constexpr (kMagnitude) {
    y.noalias() = x.cwiseAbs() * tile.cwiseAbs().transpose();
  } else {
    y.noalias() = x * tile.transpose();
  }
}

template <bool kMagnitude>
Mat product(const ConstMatRef& x, const Weight& w, OutRows rows) {
  if (rows.count < 0) rows.count = w.rows - rows.first;
  if (x.cols() != w.cols) {
    throw std::logic_error(
        fmt::format("{}: {} input features, the weight has {}", w.name, x.cols(), w.cols));
  }
  Mat y(x.rows(), rows.count);
  const Index token_tiles = (x.rows() + kTokens - 1) / kTokens;
  const Index output_tiles = (rows.count + kOutputs - 1) / kOutputs;
  const bool parallel = worth_threads(x.rows() * rows.count * w.cols);
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (Index tile = 0; tile < token_tiles * output_tiles; ++tile) {
    const Index m = tile % token_tiles * kTokens;
    const Index n = tile / token_tiles * kOutputs;
    const Index tokens = std::min(kTokens, x.rows() - m);
    const Index outputs = std::min(kOutputs, rows.count - n);
    const auto x_tile = x.middleRows(m, tokens);
    auto y_tile = y.block(m, n, tokens, outputs);
    if (tokens <= kFewTokens) {
      few_tokens<kMagnitude>(x_tile, w, rows.first + n, outputs, y_tile);
    } else {
      many_tokens<kMagnitude>(x_tile, w, rows.first + n, outputs, y_tile);
    }
  }
  return y;
}

}  // namespace

Mat linear(const ConstMatRef& x, const Weight& w, OutRows rows) {
  return product<false>(x, w, rows);
}

Mat linear_magnitude(const ConstMatRef& x, const Weight& w, OutRows rows) {
  return product<true>(x, w, rows);
}

}  // namespace dsv4::reference
