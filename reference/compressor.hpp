// SPDX-License-Identifier: Apache-2.0
// Token-level compression: every `ratio` tokens are pooled into one key/value entry by a softmax
// per channel over the group (HCA, eq. 20-23); with ratio 4 the group before takes part with its
// own channels (CSA, eq. 9-12).
#pragma once

#include <cstdint>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"
#include "core/weights.hpp"
#include "reference/kv_cache.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

struct CompressorWeights {
  Mat ape;       // [ratio, w] position bias of the scores; w = 2c with overlap, else c
  Weight wkv;    // [w, d]
  Weight wgate;  // [w, d]
  Row norm;      // [c]
};

enum class EntryUse { attention, indexing };  // the indexer's entries are Hadamard-rotated

// x[s, d] at positions start …: appends to the cache the entries that these tokens complete. Any
// split of a prompt into calls gives the same entries. Official: Compressor.forward.
void compress(const ModelConfig& config, std::int64_t ratio, const CompressorWeights& w,
              const Row& frequencies, EntryUse use, const ConstMatRef& x, std::int64_t start,
              CompressorCache& cache, Tap tap, const Round& round = {});

}  // namespace dsv4::reference
