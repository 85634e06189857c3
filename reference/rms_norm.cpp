// SPDX-License-Identifier: Apache-2.0
#include "reference/rms_norm.hpp"

namespace dsv4::reference {

Eigen::Matrix<Real, Eigen::Dynamic, 1> inverse_rms(const ConstMatRef& x, Real eps) {
  return (x.rowwise().squaredNorm().array() / static_cast<Real>(x.cols()) + eps).rsqrt();
}

Mat rms_norm(const ConstMatRef& x, const Row& weight, Real eps) {
  return inverse_rms(x, eps).asDiagonal() * x * weight.asDiagonal();
}

Mat rms_norm_heads(const ConstMatRef& x, Index heads, Real eps) {
  // [s, h*c] and [s*h, c] are the same bytes in row-major order.
  const Index c = x.cols() / heads;
  const Mat contiguous = x;
  const Eigen::Map<const Mat> by_head(contiguous.data(), x.rows() * heads, c);
  const Mat y = inverse_rms(by_head, eps).asDiagonal() * by_head;
  return Eigen::Map<const Mat>(y.data(), x.rows(), x.cols());
}

}  // namespace dsv4::reference
