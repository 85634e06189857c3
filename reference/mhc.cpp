// SPDX-License-Identifier: Apache-2.0
#include "reference/mhc.hpp"

#include "reference/error_bound.hpp"
#include "reference/linear.hpp"
#include "reference/parallel.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::reference {
namespace {

Mat sigmoid(const Mat& x) { return (1 + (-x.array()).exp()).inverse(); }

// logits = mixes * scale + base, for `count` columns of mixes from `first`.
Mat affine(const Mat& mixes, Index first, Index count, Real scale, const Row& base) {
  return (mixes.middleCols(first, count) * scale).rowwise() + base.segment(first, count);
}

// fn vec(X) / rms(vec(X)): the scale of X is taken out after the product, which is the same
// algebra.
Mat dynamic_mixes(const ConstMatRef& streams, const Weight& fn, Real eps) {
  return inverse_rms(streams, eps).asDiagonal() * linear(streams, fn);
}

// sum_j weight_j X[j]
Mat collapse(const Mat& weight, const ConstMatRef& streams) {
  const Index n = weight.cols();
  const Index d = streams.cols() / n;
  Mat x = Mat::Zero(streams.rows(), d);
  for (Index j = 0; j < n; ++j) x += weight.col(j).asDiagonal() * streams.middleCols(j * d, d);
  return x;
}

}  // namespace

Mat sinkhorn(const ConstMatRef& logits, std::int64_t iterations, Real eps) {
  // c = softmax(row) + eps
  Mat c = (logits.colwise() - logits.rowwise().maxCoeff()).array().exp();
  c = (c.array().colwise() / c.rowwise().sum().array()) + eps;
  // c = c / (column sum + eps)
  c = (c.array().rowwise() / (c.colwise().sum().array() + eps)).eval();
  for (std::int64_t t = 1; t < iterations; ++t) {
    c = (c.array().colwise() / (c.rowwise().sum().array() + eps)).eval();
    c = (c.array().rowwise() / (c.colwise().sum().array() + eps)).eval();
  }
  return c;
}

// [docs:hc_pre]
HcMix hc_pre(const ModelConfig& config, const HcWeights& w, const ConstMatRef& streams,
             const Tap& tap, const Round& round) {
  const Index n = config.hc_mult;
  const Index s = streams.rows();
  const Real eps = config.hc_eps;

  const Mat mixes = tap("mixes[s,m]", dynamic_mixes(streams, w.fn, config.norm_eps),
                        [&] { return error::mixes(streams, w.fn, config.norm_eps); });
  const Mat a = affine(mixes, 0, n, w.scale(0), w.base);
  const Mat b = affine(mixes, n, n, w.scale(1), w.base);
  const Mat l = affine(mixes, 2 * n, n * n, w.scale(2), w.base);

  const Mat pre = tap("pre[s,n]", (sigmoid(a).array() + eps).matrix(),
                      [&] { return error::sigmoid(a, w.base.head(n), 1); });
  HcMix mix;
  mix.post =
      tap("post[s,n]", 2 * sigmoid(b), [&] { return error::sigmoid(b, w.base.segment(n, n), 2); });
  Mat comb(s, n * n);
  for (Index i = 0; i < s; ++i) {
    const Mat c =
        sinkhorn(Eigen::Map<const Mat>(l.row(i).data(), n, n), config.hc_sinkhorn_iters, eps);
    comb.row(i) = Eigen::Map<const Row>(c.data(), n * n);
  }
  mix.comb = tap("comb[s,n,n]", Mat(comb), [&] {
    return error::sinkhorn(comb, l, w.base.tail(n * n), n, config.hc_sinkhorn_iters);
  });
  mix.x = tap("x[s,d]", round.bf16("hc.x", collapse(pre, streams)), [&] {
    return Mat(static_cast<Real>(n + 1) * collapse(pre.cwiseAbs(), streams.cwiseAbs()));
  });
  return mix;
}
// [/docs:hc_pre]

// [docs:hc_post]
Mat hc_post(const ModelConfig& config, const ConstMatRef& y, const ConstMatRef& streams,
            const HcMix& mix, const Tap& tap, const Round& round) {
  const Index n = config.hc_mult;
  const Index d = y.cols();
  const auto mixed = [n, d](const ConstMatRef& out, const ConstMatRef& x, const Mat& post,
                            const Mat& comb) {
    Mat next(x.rows(), n * d);
    const bool parallel = worth_threads(x.size());
#pragma omp parallel for if (parallel)
    for (Index k = 0; k < n; ++k) {
      auto to = next.middleCols(k * d, d);
      to = post.col(k).asDiagonal() * out;
      for (Index j = 0; j < n; ++j) to += comb.col(j * n + k).asDiagonal() * x.middleCols(j * d, d);
    }
    return next;
  };
  return tap("out[s,n,d]", round.bf16("hc.out", mixed(y, streams, mix.post, mix.comb)), [&] {
    return Mat(static_cast<Real>(n + 2) *
               mixed(y.cwiseAbs(), streams.cwiseAbs(), mix.post.cwiseAbs(), mix.comb.cwiseAbs()));
  });
}
// [/docs:hc_post]

Mat hc_head(const ModelConfig& config, const HcHeadWeights& w, const ConstMatRef& streams,
            const Tap& tap, const Round& round) {
  const Index n = config.hc_mult;
  const Mat mixes = dynamic_mixes(streams, w.fn, config.norm_eps);
  const Mat a = affine(mixes, 0, n, w.scale(0), w.base);
  const Mat pre = tap("pre[s,n]", (sigmoid(a).array() + Real(config.hc_eps)).matrix(), [&] {
    // The mixes have no tap of their own here: their error passes through the slope of the sigmoid
    // (at most 1/4).
    return Mat(error::sigmoid(a, w.base, 1) +
               std::abs(w.scale(0)) / 4 * error::mixes(streams, w.fn, config.norm_eps));
  });
  return tap("x[s,d]", round.bf16("hc_head.x", collapse(pre, streams)), [&] {
    return Mat(static_cast<Real>(n + 1) * collapse(pre.cwiseAbs(), streams.cwiseAbs()));
  });
}

}  // namespace dsv4::reference
