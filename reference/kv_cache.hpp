// SPDX-License-Identifier: Apache-2.0
// What one sequence carries from call to call: per block a ring of raw key/values, the compressed
// rows so far and the partial group of each compressor. Nothing here grows faster than one row per
// `ratio` tokens.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "core/config.hpp"
#include "core/tensor.hpp"

namespace dsv4::reference {

// The last `window` rows; position p lives in row p mod window. Official: Attention.kv_cache[:,
// :win].
class WindowRing {
 public:
  WindowRing(Index window, Index width) : rows_(Mat::Zero(window, width)) {}
  // kv[s, c] of positions first, first + 1, …
  void write(const ConstMatRef& kv, std::int64_t first);
  // Rows of positions first … end-1 (at most the last `window` written), oldest first.
  Mat read(std::int64_t first, std::int64_t end) const;

 private:
  Mat rows_;
};

// Rows that are only ever appended: compressed entries. Official: Attention.kv_cache[:, win:],
// Indexer.kv_cache.
class EntryRows {
 public:
  explicit EntryRows(Index width) : width_(width) {}
  void append(const ConstMatRef& rows);
  Index count() const { return static_cast<Index>(data_.size()) / width_; }
  Eigen::Map<const Mat> view() const { return {data_.data(), count(), width_}; }

 private:
  Index width_;
  std::vector<Real> data_;
};

// The group of tokens a compressor has not closed yet. With overlap rows 0…r-1 hold the previous
// (complete) group and rows r…2r-1 the current one, else rows 0…r-1 the current one. A fresh state
// is 0 and -inf: softmax weight 0. Official: Compressor.kv_state, score_state.
struct GroupState {
  GroupState(std::int64_t ratio, Index head_dim)
      : kv(Mat::Zero(rows(ratio), width(ratio, head_dim))),
        score(Mat::Constant(rows(ratio), width(ratio, head_dim),
                            -std::numeric_limits<Real>::infinity())) {}
  static Index rows(std::int64_t ratio) { return ratio * (ModelConfig::overlaps(ratio) ? 2 : 1); }
  static Index width(std::int64_t ratio, Index head_dim) {
    return head_dim * (ModelConfig::overlaps(ratio) ? 2 : 1);
  }

  Mat kv;     // [b, w]
  Mat score;  // [b, w], position bias included
};

struct CompressorCache {
  CompressorCache(std::int64_t ratio, Index head_dim) : state(ratio, head_dim), entries(head_dim) {}
  GroupState state;
  EntryRows entries;
};

struct BlockCache {
  BlockCache(const ModelConfig& config, std::int64_t layer);
  WindowRing window;
  std::vector<CompressorCache> compressor;  // none (ratio 0) or one
  std::vector<CompressorCache> indexer;     // none or one (ratio 4)
};

// One sequence. A new prompt starts with a new KvCache: no state leaks from one prompt to the next.
struct KvCache {
  explicit KvCache(const ModelConfig& config);
  std::int64_t length = 0;         // tokens seen by the backbone
  std::vector<BlockCache> blocks;  // layers, then MTP blocks
};

}  // namespace dsv4::reference
