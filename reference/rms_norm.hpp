// SPDX-License-Identifier: Apache-2.0
// RMSNorm: y = w * x / sqrt(mean(x^2) + eps). The weight is the factor itself, not an offset from
// one.
#pragma once

#include "core/tensor.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

// 1 / sqrt(mean over the row of x^2 + eps), one per row of x[s, d].
Eigen::Matrix<Real, Eigen::Dynamic, 1> inverse_rms(const ConstMatRef& x, Real eps);

// x[s, d], weight[d] -> [s, d]. Official: RMSNorm.forward.
Mat rms_norm(const ConstMatRef& x, const Row& weight, Real eps);

// Every head of x[s, heads * c] by its own root mean square, without a weight.
// Official: Attention.forward, q *= rsqrt(...), where each operation stores BF16; paper section
// 2.3.3.
Stored rms_norm_heads(const ConstMatRef& x, Index heads, Real eps, const Round& round = {});

}  // namespace dsv4::reference
