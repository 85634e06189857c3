// SPDX-License-Identifier: Apache-2.0
#include "reference/kv_cache.hpp"

#include <algorithm>

namespace dsv4::reference {

void WindowRing::write(const ConstMatRef& kv, std::int64_t first) {
  const Index window = rows_.rows();
  for (Index i = std::max<Index>(0, kv.rows() - window); i < kv.rows(); ++i) {
    rows_.row((first + i) % window) = kv.row(i);
  }
}

Mat WindowRing::read(std::int64_t first, std::int64_t end) const {
  Mat out(end - first, rows_.cols());
  for (std::int64_t p = first; p < end; ++p) out.row(p - first) = rows_.row(p % rows_.rows());
  return out;
}

void EntryRows::append(const ConstMatRef& rows) {
  for (Index i = 0; i < rows.rows(); ++i) {
    data_.insert(data_.end(), rows.row(i).data(), rows.row(i).data() + width_);
  }
}

BlockCache::BlockCache(const ModelConfig& config, std::int64_t layer)
    : window(config.window_size, config.head_dim) {
  const std::int64_t ratio = config.ratio(layer);
  if (ratio == 0) return;
  compressor.emplace_back(ratio, config.head_dim);
  if (ModelConfig::overlaps(ratio)) indexer.emplace_back(ratio, config.index_head_dim);
}

KvCache::KvCache(const ModelConfig& config) {
  for (std::int64_t layer = 0; layer < config.n_layers + config.n_mtp_layers; ++layer) {
    blocks.emplace_back(config, layer);
  }
}

}  // namespace dsv4::reference
