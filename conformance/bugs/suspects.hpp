// SPDX-License-Identifier: Apache-2.0
// Which of the known mistakes could be behind a difference, and in which order they are tried.
#pragma once

#include <span>
#include <vector>

#include "conformance/bugs/mutants.hpp"
#include "conformance/bugs/reading.hpp"

namespace dsv4::bugs {

using Thrown = std::vector<std::size_t>;

struct Tier {
  Thrown reported, systematic;
};

// First those that live where the trace differs, or at a stage on the way there that the trace does
// not show; then anywhere upstream; then the rest. Not those in `with`, which are thrown anyway.
std::vector<Tier> tiers_of(const conformance::Result& at, const Thrown& with,
                           const ModelConfig& config, const conformance::TraceTable& table);

// Their names: reported bugs first, systematic ones behind them.
std::vector<std::string> ids_of(Thrown bugs);

// Do both live at the same stage? The two hyper-connected sublayers compute the same: a mistake in
// one is a mistake in both.
bool same_stage(const std::string& tap, const std::string& other);

// Are both stages of one module: `attn`, `attn.indexer`, `ffn`…?
bool same_module(const std::string& tap, const std::string& other);

// Where a run with these thrown first does something else than the run that left the history; null:
// nowhere, so that they need not be run. Faults of reading weights and config begin at once.
std::optional<std::int64_t> first_layer(const Thrown& added, const History& history,
                                        std::int64_t earliest);

// Two mistakes behind one difference: where single ones leave the residuals a and b of `before`,
// both together leave about a + b - before. The pairs (by index) that leave least by this guess, of
// mistakes at different stages.
struct Single {
  std::size_t bug;
  const std::vector<double>* kept;
};
std::vector<std::pair<std::size_t, std::size_t>> likely_pairs(const std::vector<double>& before,
                                                              std::span<const Single> singles,
                                                              std::size_t most);

}  // namespace dsv4::bugs
