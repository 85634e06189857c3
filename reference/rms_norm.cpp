// SPDX-License-Identifier: Apache-2.0
#include "reference/rms_norm.hpp"

namespace dsv4::reference {

Eigen::Matrix<Real, Eigen::Dynamic, 1> inverse_rms(const ConstMatRef& x, Real eps) {
  return (x.rowwise().squaredNorm().array() / static_cast<Real>(x.cols()) + eps).rsqrt();
}

Mat rms_norm(const ConstMatRef& x, const Row& weight, Real eps) {
  return inverse_rms(x, eps).asDiagonal() * x * weight.asDiagonal();
}

Stored rms_norm_heads(const ConstMatRef& x, Index heads, Real eps, const Round& round) {
  // [s, h*c] and [s*h, c] are the same bytes in row-major order.
  const Index c = x.cols() / heads;
  const Mat contiguous = x;
  const Eigen::Map<const Mat> by_head(contiguous.data(), x.rows() * heads, c);
  const Mat mean = round.bf16_inside("q_normed.square", by_head.cwiseAbs2()).rowwise().mean();
  const Mat stored =
      round.bf16_inside("q_normed.mean", mean, [&] { return Mat(static_cast<Real>(c) * mean); });
  const Mat rsqrt =
      round.bf16_inside("q_normed.sum", stored.array() + round.fp32("q_normed.eps", eps))
          .array()
          .rsqrt();
  const Mat factor = round.bf16_inside("q_normed.rsqrt", rsqrt, [&] { return Mat(4 * rsqrt); });
  const Mat y = factor.col(0).asDiagonal() * by_head;
  return round.bf16("q_normed.out", Eigen::Map<const Mat>(y.data(), x.rows(), x.cols()),
                    Inside::roundings);
}

}  // namespace dsv4::reference
