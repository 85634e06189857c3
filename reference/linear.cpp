// SPDX-License-Identifier: Apache-2.0
#include "reference/linear.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <stdexcept>
#include <vector>

#include "core/dot.hpp"
#include "reference/parallel.hpp"

namespace dsv4::reference {
namespace {

// Tiles of the output: tall, because each tile of W is dequantised once per tile of x; but not so
// tall that a thread is left without one. They depend on the shape alone, never on the threads.
constexpr Index kTokens = 512;
constexpr Index kOutputs = 256;
constexpr Index kFewestTokens = 64;
constexpr Index kTiles = 4;
// A tile of W is dequantised in slices that stay in the L2 cache while x passes by.
constexpr Index kDepth = 512;
// Up to this many tokens each row is decoded into the L1 cache and used there, or, in the formats
// that `dot` knows, in registers.
constexpr Index kFewTokens = kDotTokens;
constexpr Index kSlice = 1024;
constexpr Index kFewOutputs = 64;

Index tiles(Index size, Index tile) { return (size + tile - 1) / tile; }

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
  Mat buffer(count, kDepth);
  Mat sum = Mat::Zero(x.rows(), count);  // y has long rows: its cache lines would evict each other
  for (Index k = 0; k < w.cols; k += kDepth) {
    const Index width = std::min(kDepth, w.cols - k);
    dequantize(w, row, count, k, width, buffer.data(), kDepth);
    const auto slice = buffer.leftCols(width).transpose();
    if constexpr (kMagnitude) {
      sum.noalias() += x.middleCols(k, width).cwiseAbs() * slice.cwiseAbs();
    } else {
      sum.noalias() += x.middleCols(k, width) * slice;
    }
  }
  y = sum;
}

template <bool kMagnitude>
Mat product(const ConstMatRef& x, const Weight& w, OutRows rows) {
  if (rows.count < 0) rows.count = w.rows - rows.first;
  if (x.cols() != w.cols) {
    throw std::logic_error(
        fmt::format("{}: {} input features, the weight has {}", w.name, x.cols(), w.cols));
  }
  Mat y(x.rows(), rows.count);
  const Index tile_outputs = x.rows() <= kFewTokens ? kFewOutputs : kOutputs;
  const Index output_tiles = tiles(rows.count, tile_outputs);
  Index tile_tokens = kTokens;
  while (tile_tokens > kFewestTokens && tiles(x.rows(), tile_tokens) * output_tiles < kTiles) {
    tile_tokens /= 2;
  }
  const Index token_tiles = tiles(x.rows(), tile_tokens);
  const bool in_registers = !kMagnitude && x.rows() > 0 && x.rows() <= kDotTokens && has_dot(w);
  const auto ordered = in_registers ? dot_order(x, w) : std::vector<double>{};
  const bool parallel = worth_threads(x.rows() * rows.count * w.cols);
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (Index tile = 0; tile < token_tiles * output_tiles; ++tile) {
    const Index m = tile % token_tiles * tile_tokens;
    const Index n = tile / token_tiles * tile_outputs;
    const Index tokens = std::min(tile_tokens, x.rows() - m);
    const Index outputs = std::min(tile_outputs, rows.count - n);
    const auto x_tile = x.middleRows(m, tokens);
    auto y_tile = y.block(m, n, tokens, outputs);
    if (in_registers) {
      dot(ordered, w, rows.first + n, y_tile);
    } else if (tokens <= kFewTokens) {
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
