// SPDX-License-Identifier: Apache-2.0
// Manifold-constrained hyper-connections: the residual is n streams. A sublayer reads one mixture
// of them and writes back through weights, while a doubly stochastic matrix mixes the streams.
// Paper section 2.2, eq. 1-8.
#pragma once

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct HcWeights {
  Weight fn;  // [(2+n)n, n*d], rows: pre (n), post (n), comb (n*n, row-major)
  Row base;   // [(2+n)n]
  Row scale;  // [3]: pre, post, comb
};

struct HcMix {
  Mat x;     // [s, d]     the collapsed stream, input of the sublayer
  Mat post;  // [s, n]     weights of the sublayer's output, eq. 7
  Mat comb;  // [s, n*n]   [from, to], eq. 8
};

// streams X[s, n*d] (stream-major). Official: Block.hc_pre, hc_split_sinkhorn; eq. 3-8 and A X of
// eq. 1.
HcMix hc_pre(const ModelConfig& config, const HcWeights& w, const ConstMatRef& streams,
             const Tap& tap, const Round& round = {});

// X'[k] = post_k y + sum_j comb[j,k] X[j]. Official: Block.hc_post; eq. 1. The sum runs over the
// FIRST index.
Mat hc_post(const ModelConfig& config, const ConstMatRef& y, const ConstMatRef& streams,
            const HcMix& mix, const Tap& tap, const Round& round = {});

struct HcHeadWeights {
  Weight fn;  // [n, n*d]
  Row base;   // [n]
  Row scale;  // [1]
};

// Collapses the streams before the final norm: X[s, n*d] -> [s, d]. Official: ParallelHead.hc_head;
// not in the paper.
Mat hc_head(const ModelConfig& config, const HcHeadWeights& w, const ConstMatRef& streams,
            const Tap& tap, const Round& round = {});

// Sinkhorn-Knopp in the official order: softmax of each row + eps, columns, then (iterations - 1) x
// (rows, columns), eps in every denominator. logits[n, n] -> a matrix whose columns sum to one
// within about eps. Eq. 8.
Mat sinkhorn(const ConstMatRef& logits, std::int64_t iterations, Real eps);

}  // namespace dsv4::reference
