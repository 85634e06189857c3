// SPDX-License-Identifier: Apache-2.0
// Attention of one block: a sliding window over raw key/values, beside compressed entries: none
// (ratio 0), those the indexer picks (ratio 4, CSA), or all that are complete (other ratios, HCA).
// One key/value vector serves as key and as value for all heads; a learned sink per head joins the
// softmax denominator. Paper section 2.3.
#pragma once

#include <cstdint>
#include <optional>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/compressor.hpp"
#include "reference/indexer.hpp"
#include "reference/kv_cache.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct AttentionWeights {
  Row attn_sink;                                // [h]
  Weight wq_a;                                  // [q, d]
  Row q_norm;                                   // [q]
  Weight wq_b;                                  // [h*c, q]
  Weight wkv;                                   // [c, d]
  Row kv_norm;                                  // [c]
  Weight wo_a;                                  // [g*r, h*c/g]
  Weight wo_b;                                  // [d, g*r]
  std::optional<CompressorWeights> compressor;  // ratio != 0
  std::optional<IndexerWeights> indexer;        // ratio 4
};

// What one query attends to: rows of raw key/values and of compressed entries.
struct Sight {
  Index window_first = 0;  // row of the oldest visible raw key/value in `raw`
  Index window_count = 0;
  const std::int32_t* entries = nullptr;  // entry numbers, -1 = none
  Index entry_count = 0;
  // Places that the window takes before the first entry, in the official order of indices (a short
  // window is filled up with empty ones). Only official numerics look at it: the blocks of the
  // online softmax are counted in places.
  Index window_places = 0;
};

struct HeadOutput {
  Row o;    // [h*c]
  Row lse;  // [h]    log of the softmax denominator, sink included
};

// o[h] = sum_e exp(z[h,e]) E[e] / (sum_e exp(z[h,e]) + exp(sink[h])), z = q[h].E[e] * c^-1/2. Eq.
// 19, 26, 27. The sink has no value vector and no part in the maximum. q[1, h*c]; raw, entries[*,
// c]. Official: sparse_attn.
HeadOutput core_attention(const ConstMatRef& q, const ConstMatRef& raw, const ConstMatRef& entries,
                          const Sight& sight, const Row& sink, const Round& round = {});

// x[s, d] at positions start … -> [s, d]. Official: Attention.forward.
Mat attention(const ModelConfig& config, std::int64_t layer, const AttentionWeights& w,
              const Row& frequencies, const ConstMatRef& x, std::int64_t start, BlockCache& cache,
              Tap tap, const Round& round = {});

}  // namespace dsv4::reference
