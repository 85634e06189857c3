// SPDX-License-Identifier: Apache-2.0
#include "cli/kernel_spread.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "cli/kernel_arrays.hpp"
#include "cuda/stages/mhc_blocks.hpp"
#include "reference/gate.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::cli::spread {
namespace {

constexpr double kUnit = 0x1p-24;

// Variances in units of u^2 / 3.
Spread of(const Mat& variance, Mat lean) {
  Mat typical = (variance.array() / 3 + lean.array().square()).sqrt();
  return {std::move(typical), std::move(lean)};
}
Spread of(const Mat& variance) { return of(variance, Mat::Zero(variance.rows(), variance.cols())); }

// A constant c that is added to numbers of size x is no multiple of their last bit: all sums of one
// binade are rounded by the same. In units of u.
double off_grid(double c, double x) {
  const double bit = std::ldexp(1.0, std::ilogb(x) - 23);
  return std::abs(c - bit * std::nearbyint(c / bit)) / kUnit;
}

// block_sum of cuda/kernels/reduce.hpp: each of 128 threads adds up its terms in a row, the lanes
// of a warp in a tree, the four warps in a row.
struct BlockSum {
  double additions;  // behind a term, on average
  double one_sign;   // squares of all partial sums over that of the whole, for equal terms
};
BlockSum block_sum(Index terms) {
  constexpr double kThreads = 128, kWarps = 4, kLevels = 5;
  const double each = std::ceil(static_cast<double>(terms) / kThreads);
  return {(each + 1) / 2 + kLevels + (kWarps - 1) * (kWarps + 2) / (2 * kWarps),
          each / (3 * kThreads) + (2 * 32 - 2) / kThreads + (4 + 9 + 16) / (kWarps * kWarps)};
}

}  // namespace

namespace {

// mhc_cluster: a warp makes three truncated products for each 8 of its 32 n columns, then warps and
// blocks are added up in a row. A sum that is cut lacks 0.72 u of itself on average (half a unit of
// 2^-23 of its binade, over mantissas), at every step: of the whole, for half of the steps; of a
// term, for as many as stand behind it, which differs from term to term.
Spread cluster_mixes(const Mat& squares, const Mat& mixes, Index n, Index d, int blocks) {
  constexpr double kCut = 0.72;
  const double steps = 3.0 * 4 * static_cast<double>(n);
  const double warps = static_cast<double>(d) / stages::kMhcWarpColumns / blocks;
  const double additions = (steps + warps + blocks + 3) / 2 + kCut * kCut * steps * steps / 4;
  // The sum of squares: lanes in a row, four of them in a tree, warps, blocks.
  const double lanes = 4 * warps * blocks;
  const double one_sign = 8 * static_cast<double>(n) / (3 * lanes) + 6 / lanes +
                          warps / (3 * blocks) + static_cast<double>(blocks) / 3;
  const Mat variance = static_cast<Real>(additions) * squares +
                       static_cast<Real>((one_sign + 2) / 4 + 3) * mixes.cwiseAbs2();
  return of(variance, static_cast<Real>(kCut * (steps + 1) / 2) * mixes.cwiseAbs());
}

}  // namespace

Spread mixes(const Mat& streams, const Weight& fn, Real eps, const Mat& mixes, Index n,
             int blocks) {
  Mat w(fn.rows, fn.cols);
  dequantize(fn, 0, fn.rows, 0, fn.cols, w.data(), fn.cols);
  const auto inverse = reference::inverse_rms(streams, eps);
  const Mat squares =
      inverse.cwiseAbs2().asDiagonal() * (streams.cwiseAbs2() * w.cwiseAbs2().transpose());
  if (blocks > 0) return cluster_mixes(squares, mixes, n, fn.cols / n, blocks);
  const BlockSum sum = block_sum(fn.cols);
  // The root halves the relative errors of the sum of squares, of the mean and of mean + eps; then
  // root, division and product.
  const auto factor = static_cast<Real>((sum.one_sign + 2) / 4 + 3);
  return of(static_cast<Real>(sum.additions) * squares + factor * mixes.cwiseAbs2());
}

// The affine step and the product with log2(e) round a; 2^x errs by about 1.2 roundings of its
// result, whose error the slope carries on; then 1 + e and the division. In common: log2(e) as a
// float32 is off by 0.224 u, and the polynomial of 2^x by up to u / 4.
Spread sigmoid(const Mat& a, double factor, double added) {
  Mat variance(a.rows(), a.cols()), lean(a.rows(), a.cols());
  for (Index i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a.data()[i]), s = 1 / (1 + std::exp(-x));
    const double slope = s * (1 - s);
    variance.data()[i] = factor * factor * (slope * slope * (2 * x * x + 1.5) + 2 * s * s);
    lean.data()[i] = factor * slope * (0.224 * std::abs(x) + 0.25);
    if (added != 0) lean.data()[i] += off_grid(added, s);
  }
  return of(variance, std::move(lean));
}

// What scales a whole row or column is taken out by the sweeps that follow. What stays: of each
// entry the affine step, l - max, two roundings of exp, and a division for each of 2 iterations
// sweeps; of the last sweep its n additions, and eps, in a sum of about 1.
Spread sinkhorn(const Mat& comb, const Mat& l, Index n, std::int64_t iterations, double eps) {
  Mat variance(comb.rows(), comb.cols());
  const Real sweeps = 2 * static_cast<Real>(iterations) + static_cast<Real>(n) / 3 + 1;
  for (Index r = 0; r < comb.rows(); ++r) {
    for (Index i = 0; i < n; ++i) {
      const auto row = l.row(r).segment(i * n, n).array();
      const auto own = row.square() + (row - row.maxCoeff()).square() + 2;
      variance.row(r).segment(i * n, n) =
          (comb.row(r).segment(i * n, n).array().square() * (own + sweeps)).matrix();
    }
  }
  return of(variance, static_cast<Real>(off_grid(eps, 1)) * comb.cwiseAbs());
}

namespace {

struct Slot {
  double kv, score, raw;  // raw: the score before its bias; 0 if the state has them added up
};

// Slot i of a channel of entry `entry`, as the kernel counts them; score -inf: there is none.
Slot slot_of(const stages::CompressorInput& in, Index entry, Index i, Index channel) {
  const bool overlap = in.ratio == 4;
  const Index w = Index{in.c} * (overlap ? 2 : 1);
  const Index position = overlap ? (entry - 1) * in.ratio + i : entry * in.ratio + i;
  if (position < 0) return {0, -std::numeric_limits<double>::infinity(), 0};
  const Index column = overlap && i >= in.ratio ? in.c + channel : channel;
  const Index slot = position % in.ratio;
  const auto at = [&](const stages::Floats& v, Index row) {
    return static_cast<double>(v[static_cast<std::size_t>(row * w + column)]);
  };
  if (position >= in.start) {
    const Index row = position - in.start;
    return {at(in.kv, row), at(in.score, row) + at(in.ape, slot), at(in.score, row)};
  }
  const Index row = slot + (overlap && position / in.ratio == in.start / in.ratio ? in.ratio : 0);
  return {at(in.kv_state, row), at(in.score_state, row), 0};
}

// sum p k / sum p in two sums that grow together. Of each slot: its score with the bias, score -
// max and two roundings of exp move p; of both sums every partial one; then the division.
double pooled_variance(const std::vector<Slot>& slots) {
  double most = -std::numeric_limits<double>::infinity(), all = 0, value = 0;
  for (const Slot& s : slots) most = std::max(most, s.score);
  std::vector<double> p;
  for (const Slot& s : slots) all += p.emplace_back(std::exp(s.score - most));
  for (std::size_t i = 0; i < p.size(); ++i) value += (p[i] /= all) * slots[i].kv;
  double variance = value * value, sum = 0, weighted = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) continue;
    const double s = slots[i].score, moved = p[i] * (slots[i].kv - value);
    const double biased = slots[i].raw != 0 ? s * s : 0;
    variance += moved * moved * (biased + (s - most) * (s - most) + 2);
    sum += p[i];
    weighted += p[i] * slots[i].kv;
    variance += sum * sum * value * value + weighted * weighted;
  }
  return variance;
}

}  // namespace

Spread pooled(const stages::CompressorInput& in, Index entries) {
  Mat variance(entries, in.c);
  const Index count = Index{in.ratio} * (in.ratio == 4 ? 2 : 1);
  std::vector<Slot> slots(static_cast<std::size_t>(count));
  for (Index e = 0; e < entries; ++e) {
    for (Index c = 0; c < in.c; ++c) {
      for (Index i = 0; i < count; ++i) {
        slots[static_cast<std::size_t>(i)] = slot_of(in, in.start / in.ratio + e, i, c);
      }
      variance(e, c) = pooled_variance(slots);
    }
  }
  return of(variance);
}

// s = sqrt(max(l, 0) + log(1 + exp(-|l|))): about six roundings of the logarithm (two of exp, two
// of log2, a division, a product), halved by the root and scaled by its share; the addition,
// halved; the root.
Spread scores(const Mat& l) {
  return of(l.unaryExpr([](Real logit) {
    const Real s = reference::sqrt_softplus(logit);
    if (logit > 20) return s * s;
    const Real tail = std::log1p(std::exp(-std::abs(logit))) / (2 * s);
    return 6 * tail * tail + s * s / 4 + s * s;
  }));
}

// score (route_scale / sum): k additions of one sign, the division, the product.
Spread weights(const Mat& weights) {
  const Real additions = static_cast<Real>(weights.cols()) / 3;
  return of((additions + 2) * weights.cwiseAbs2());
}

}  // namespace dsv4::cli::spread
