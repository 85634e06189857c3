// SPDX-License-Identifier: Apache-2.0
// Running error analysis of every stage: E with |computed - exact| <= u * E to first order, per
// element, for any order of summation, where u is the unit roundoff of whoever computed it and the
// inputs are exact. Higham, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4. A dot
// product of length n contributes n * sum |a||b|; an elementary function at most four roundings.
#pragma once

#include "core/tensor.hpp"
#include "core/weights.hpp"
#include "reference/linear.hpp"
#include "reference/rope.hpp"

namespace dsv4::reference::error {

// x W^T
Mat linear(const ConstMatRef& x, const Weight& w, OutRows rows = {});
// y = rms_norm(...) over n numbers a row: the sum of squares has one sign, so the error is relative
// to y.
Mat rms_norm(const ConstMatRef& y, Index n);
// Rotation of x: the angle itself carries a relative error, so the bound grows with the position.
Mat rope(const ConstMatRef& x, Index heads, const Row& frequencies, Positions at);
// n additions of +-x / sqrt(n) per head
Mat hadamard(const ConstMatRef& x, Index heads);
// fn vec(X) / rms(vec X)
Mat mixes(const ConstMatRef& streams, const Weight& fn, Real eps);
// factor * sigmoid(a) where a = m * scale + base[columns of a]
Mat sigmoid(const Mat& a, const Row& base, Real factor);
// sqrt(softplus(l)): eight roundings, and one of l itself, as wherever a function decays.
Mat sqrt_softplus(const Mat& l);
// The Sinkhorn iterate c of logits l = m * scale + base; n streams.
Mat sinkhorn(const Mat& c, const Mat& l, const Row& base, Index n, std::int64_t iterations);
// One expert: w2(weight * silu(w1 x) * (w3 x)), with the clamp. weight may be empty.
Mat expert(const ConstMatRef& x, const Weight& w1, const Weight& w2, const Weight& w3,
           const Mat& weight, Real limit);

}  // namespace dsv4::reference::error
