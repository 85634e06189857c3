// SPDX-License-Identifier: Apache-2.0
// The whole model: embedding, blocks, head, multi-token prediction. Official: Transformer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/weights.hpp"
#include "reference/block.hpp"
#include "reference/kv_cache.hpp"
#include "reference/mtp.hpp"

namespace dsv4::reference {

struct ForwardOptions {
  std::int64_t first_layer = 0;
  std::int64_t last_layer = -1;  // -1: all; else stop after this layer, without head and MTP
  bool mtp = false;
  std::vector<std::int64_t> logits_at;  // absolute positions; empty: the last one of the call
  std::optional<Mat> streams;  // X[s, n*d] that enters first_layer, instead of the embedding
  Perturbation perturbation;   // official numerics: of roundings that no tap shows
};

struct Output {
  Mat streams;  // X[s, n*d] after the last block that ran
  Row logits;   // [v], last position of the call; empty without the head
};

// Immutable once loaded: any number of sequences, each with its own KvCache, may run in turn or at
// once.
class Model {
 public:
  // Loads the blocks up to last_layer (-1: all, with MTP). The checkpoint must outlive the model.
  explicit Model(const Checkpoint& checkpoint, std::int64_t last_layer = -1,
                 Numerics numerics = {});

  const ModelConfig& config() const { return checkpoint_.config(); }
  KvCache new_cache() const { return KvCache(config()); }

  // Tokens [start, end) of `ids`, where start = cache.length; ids after `end` are only read by the
  // MTP blocks (row i of mtp.J reads the id at start + i + 1; rows without one are left out).
  // Throws UsageError for an empty range or an id outside the vocabulary.
  Output forward(std::span<const std::int32_t> ids, std::int64_t end, KvCache& cache, Tap tap = {},
                 const ForwardOptions& options = {}) const;

 private:
  Mat embed(std::span<const std::int32_t> ids) const;
  Row head(const ConstMatRef& streams, const HcHeadWeights& hc, const Row& norm, std::int64_t start,
           std::span<const std::int32_t> next_ids, const std::vector<std::int64_t>& logits_at,
           const Tap& tap, const Round& round) const;
  void all_logits(const Mat& y, const Tap& tap) const;
  void log_probabilities(const Mat& y, std::span<const std::int32_t> next_ids,
                         const Tap& tap) const;
  void mtp(const ConstMatRef& streams, std::span<const std::int32_t> next_ids, std::int64_t start,
           const std::vector<std::int64_t>& logits_at, KvCache& cache, const Tap& tap,
           const Round& round) const;

  const Checkpoint& checkpoint_;
  Round round_;
  Row plain_;       // rope frequencies of ratio 0
  Row compressed_;  // and of every other ratio
  Weight embed_, head_;
  Row norm_;
  HcHeadWeights hc_head_;
  std::vector<BlockWeights> layers_;
  std::vector<MtpWeights> mtp_;
};

}  // namespace dsv4::reference
