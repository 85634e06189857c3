// SPDX-License-Identifier: Apache-2.0
// The lightning indexer of CSA: scores every compressed entry with a few cheap heads and keeps the
// best ones for each query. Paper section 2.3.1, eq. 13-17. Official: Indexer.forward.
#pragma once

#include <cstdint>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/compressor.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct IndexerWeights {
  Weight wq_b;          // [i*j, q]
  Weight weights_proj;  // [i, d]
  CompressorWeights compressor;
};

// Entries that the query at position p may look at: complete groups, its own included once it
// closes it.
inline Index visible_entries(std::int64_t p, std::int64_t ratio) { return (p + 1) / ratio; }

// The `k` best of scores.row(i) for each i; -inf is never chosen, equal scores fall as in
// torch.topk on a CPU (any other choice among them is as right); best first, -1 pads the row.
// scores[s, t] -> [s, min(k, t)].
IntMat top_k(const ConstMatRef& scores, Index k, Ties ties = Ties::lowest);

// Distance between the last chosen and the first rejected score of each row; +inf when nothing was
// rejected.
Mat top_k_margin(const ConstMatRef& scores, const IntMat& chosen);
// Its running error E[s, 1]: two scores, each off by the largest error of its row.
Mat margin_error(const ConstMatRef& score_errors);

// x[s, d] and qr[s, q] at positions start … -> chosen entry numbers [s, min(index_topk, entries)],
// -1 = none.
IntMat index(const ModelConfig& config, const IndexerWeights& w, const Row& frequencies,
             const ConstMatRef& x, const ConstMatRef& qr, std::int64_t start,
             CompressorCache& cache, Tap tap, const Round& round = {});

}  // namespace dsv4::reference
