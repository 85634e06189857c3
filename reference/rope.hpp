// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on the last `rope_head_dim` dims of a head: interleaved pairs (2i,
// 2i+1) are complex numbers, multiplied by exp(i * position * f_i). Paper section 2.3.3; official:
// precompute_freqs_cis, apply_rotary_emb. No amplitude factor anywhere.
#pragma once

#include <cstdint>

#include "core/config.hpp"
#include "core/tensor.hpp"
#include "reference/rounding.hpp"

namespace dsv4::reference {

// Angular frequencies f_i in radians per position, one per pair [rope_head_dim / 2].
// Ratio 0: base rope_theta, plain. Any other ratio: base compress_rope_theta with YaRN
// interpolation, for everything in that layer: queries, window and compressed keys, indexer, and
// the inverse rotation.
// Official numerics: every operation in float32, and so is the angle below; its sine is not.
Row rope_frequencies(const ModelConfig& config, std::int64_t ratio, const Round& round = {});

// Row i of a tensor stands at position first + i * step.
struct Positions {
  std::int64_t first = 0;
  std::int64_t step = 1;
  std::int64_t operator[](Index i) const { return first + i * step; }
};

enum class Rotation { forward, inverse };

// x[s, heads * c] -> the same shape, last 2 * frequencies.size() dims of every head rotated.
Mat rope(const ConstMatRef& x, Index heads, const Row& frequencies, Positions at,
         Rotation r = Rotation::forward, const Round& round = {});

}  // namespace dsv4::reference
