// SPDX-License-Identifier: Apache-2.0
// A port's own names for our taps. A table has three columns, separated by tabs: their name, our
// name, transform; L, J and E stand for numbers. Lines that begin with # are comments.
//
//   model.layers.L.self_attn.q_b_norm    layers.L.attn.q_normed    drop_batch heads_second
//   model.layers.L.mlp.up+model.layers.L.mlp.down    layers.L.ffn.out    -
//
// Theirs may be -: the port has no such tensor, because a kernel of it fuses the stage away.
//
// Transforms, from left to right: drop_batch (a first axis of one), heads_second ([h,s,c] to
// [s,h,c]), split(N) (the last axis into N), flatten (the last two axes into one), last_row,
// rows(A-B), columns(A-B) of the last axis, scale(X), item(K) (the dataset is called NAME.K), and
// for two names joined by +, their sum.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "golden/trace_file.hpp"

namespace dsv4::golden {

struct Alias {
  std::vector<std::string> theirs;  // several: summed
  std::string ours;
  std::vector<std::string> steps;
};

// Throws TraceError with the line for what it does not understand.
std::vector<Alias> read_aliases(const std::filesystem::path& table);

// Our names of the aliases whose theirs is -.
std::vector<std::string> not_exposed(const std::vector<Alias>& aliases);

// Writes `trace` under our names to `path`. Datasets that no alias names keep their own.
TraceFile renamed(const TraceFile& trace, const std::vector<Alias>& aliases,
                  const std::filesystem::path& path);

}  // namespace dsv4::golden
