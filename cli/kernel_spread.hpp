// SPDX-License-Identifier: Apache-2.0
// How far a kernel's own roundings spread what it returns in float32, where no store hides them:
// for each kernel the numbers that it rounds on the way, in its own order, from formulas and chain
// lengths alone. The derivation in words: docs/tolerance.md.
//
// One rounding of a number p errs by at most u |p| and has a standard deviation of at most
// u |p| / sqrt(3); independent ones add up in squares. In a sum of products t of both signs a
// partial sum is about the root of its own sum of t^2, so that a term counts once for every
// addition behind it; in a sum of one sign it is its share of the whole.
#pragma once

#include "core/tensor.hpp"
#include "core/weights.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::cli {

// In units of u = 2^-24, per element.
struct Spread {
  Mat typical;  // standard deviation
  Mat lean;     // the part of it that elements may have in common, with its sign
};

namespace spread {

// Of mixes[s, m] = fn vec(X) / rms(vec(X)); streams X[s, n*d]. blocks: of a cluster that share d;
// 0: the plain kernel.
Spread mixes(const Mat& streams, const Weight& fn, Real eps, const Mat& mixes, Index n, int blocks);
// Of factor sigmoid(a) + added, a = mix scale + base.
Spread sigmoid(const Mat& a, double factor, double added);
// Of comb[s, n*n], made of the logits l[s, n*n].
Spread sinkhorn(const Mat& comb, const Mat& l, Index n, std::int64_t iterations, double eps);
// Of the entries that the call completes: [e, c].
Spread pooled(const stages::CompressorInput& in, Index entries);
// Of sqrt(softplus(l)), and of the weights made of k scores.
Spread scores(const Mat& l);
Spread weights(const Mat& weights);

}  // namespace spread
}  // namespace dsv4::cli
