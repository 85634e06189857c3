// SPDX-License-Identifier: Apache-2.0
#include "reference/error_bound.hpp"

#include <cmath>

#include "reference/experts.hpp"
#include "reference/gate.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::reference::error {

Mat linear(const ConstMatRef& x, const Weight& w, OutRows rows) {
  return static_cast<Real>(w.cols) * linear_magnitude(x, w, rows);
}

Mat rms_norm(const ConstMatRef& y, Index n) {
  // n/2: the square root halves the relative error of the sum of n squares; 5: divide, add, rsqrt,
  // two products.
  return (static_cast<Real>(n) / 2 + 5) * y.cwiseAbs();
}

Mat rope(const ConstMatRef& x, Index heads, const Row& frequencies, Positions at) {
  const Index c = x.cols() / heads;
  const Index pairs = frequencies.size();
  Mat e = Mat::Zero(x.rows(), x.cols());
  for (Index s = 0; s < x.rows(); ++s) {
    for (Index h = 0; h < heads; ++h) {
      for (Index i = 0; i < pairs; ++i) {
        const Index k = (h + 1) * c - 2 * pairs + 2 * i;
        // 20 roundings in the angle: 8 of pow, divide, YaRN ramp and product with the position, and
        // ln(base) <= 12 times that of the exponent 2i/r_d where r_d is no power of two.
        const Real angle = std::abs(static_cast<Real>(at[s]) * frequencies(i));
        e(s, k) = e(s, k + 1) = (20 * angle + 4) * (std::abs(x(s, k)) + std::abs(x(s, k + 1)));
      }
    }
  }
  return e;
}

Mat hadamard(const ConstMatRef& x, Index heads) {
  const Index n = x.cols() / heads;
  Mat e(x.rows(), x.cols());
  for (Index h = 0; h < heads; ++h) {
    const auto sum = x.middleCols(h * n, n).cwiseAbs().rowwise().sum();
    e.middleCols(h * n, n) = (sum * std::sqrt(static_cast<Real>(n))).replicate(1, n);
  }
  return e;
}

Mat mixes(const ConstMatRef& streams, const Weight& fn, Real eps) {
  const Index n = fn.cols;
  const Mat y = inverse_rms(streams, eps).asDiagonal() * linear_magnitude(streams, fn);
  return (Real(1.5) * static_cast<Real>(n) + 4) * y;
}

Mat sigmoid(const Mat& a, const Row& base, Real factor) {
  // sigma'(a) = sigma (1 - sigma); the affine step errs by |m scale| + |a| <= 2|a| + |base|.
  const auto sigma = (1 + (-a.array()).exp()).inverse();
  const auto affine = 2 * a.array().abs() + base.array().abs().replicate(a.rows(), 1);
  return factor * (sigma * (1 - sigma) * affine + 6 * sigma);
}

Mat sqrt_softplus(const Mat& l) {
  return l.unaryExpr([](Real x) {
    const Real s = reference::sqrt_softplus(x);
    // s' = sigma / (2 s)
    const Real slope = s == 0 ? 0 : 1 / (2 * s * (1 + std::exp(-x)));
    return 8 * s + slope * std::abs(x);
  });
}

Mat sinkhorn(const Mat& c, const Mat& l, const Row& base, Index n, std::int64_t iterations) {
  // A relative error d of the entries moves the scaled matrix by at most the spread of its
  // logarithms (6 d: rows, columns, and the entry itself); each of the 2 * iterations
  // normalisations adds n additions and a division.
  const auto affine =
      (2 * l.array().abs() + base.array().abs().replicate(l.rows(), 1)).rowwise().maxCoeff();
  const auto relative = 6 * (2 * affine + static_cast<Real>(n) + 4) +
                        static_cast<Real>(2 * iterations) * static_cast<Real>(n + 2);
  return c.cwiseAbs().array().colwise() * relative;
}

Mat expert(const ConstMatRef& x, const Weight& w1, const Weight& w2, const Weight& w3,
           const Mat& weight, Real limit) {
  const SwiGlu h = swiglu(reference::linear(x, w1), reference::linear(x, w3), weight, limit);
  // |silu'| <= 1.1; clamping does not stretch an error.
  const Mat silu = h.gate.array() / (1 + (-h.gate.array()).exp());
  Mat e = Real(1.1) * linear(x, w1).cwiseProduct(h.up.cwiseAbs()) +
          linear(x, w3).cwiseProduct(silu.cwiseAbs());
  if (weight.size() > 0) e = (weight.cwiseAbs().col(0).asDiagonal() * e).eval();
  e += 12 * h.hidden.cwiseAbs();
  return linear(h.hidden, w2) + linear_magnitude(e, w2);
}

}  // namespace dsv4::reference::error
