// SPDX-License-Identifier: Apache-2.0
#include "conformance/provenance.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace dsv4::conformance {
namespace {

// "layers.3.attn.qr" -> "layers.3."; "" outside blocks.
std::string block_prefix(const TapMatch& m) {
  if (m.block < 0) return {};
  return fmt::format("{}.{}.", m.mtp ? "mtp" : "layers", m.index);
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const auto word = text.substr(0, text.find(' '));
    if (!word.empty()) out.push_back(word);
    text.remove_prefix(std::min(text.size(), word.size() + 1));
  }
  return out;
}

}  // namespace

Provenance::Provenance(const ModelConfig& config, std::function<bool(const std::string&)> exposed)
    : config_(config), exposed_(std::move(exposed)), names_{"input_ids"} {
  leaf_ids_["input_ids"] = 0;
  intern({0});
}

std::string Provenance::stream_entering(const TapMatch& m) const {
  if (m.mtp) return fmt::format("mtp.{}.x", m.index);
  if (m.block == 0) return "embed";
  return fmt::format("layers.{}.hc_ffn.out", m.block > 0 ? m.block - 1 : config_.n_layers - 1);
}

void Provenance::parse_inputs(const std::string& tap, Node& n) const {
  const auto m = find_tap(tap, static_cast<int>(config_.n_layers));
  if (!m) throw std::logic_error("no inputs known for " + tap);
  n.ratio = m->block >= 0 ? config_.ratio(m->block) : 0;
  static const std::map<std::string_view, Relation> relations{
      {"", Relation::same},       {"window", Relation::window}, {"visible", Relation::visible},
      {"group", Relation::group}, {"open", Relation::open},     {"visited", Relation::visited}};
  for (const std::string_view word : words(m->info->inputs)) {
    const auto split = word.find('@');
    const std::string_view stem = word.substr(0, split);
    const Relation relation =
        relations.at(split == word.npos ? std::string_view{} : word.substr(split + 1));
    if (stem == "ids" || stem == "-") continue;  // token ids are always there
    if (stem == "ffn.gate.scores" && m->info->name.ends_with("gate.indices") &&
        config_.hash_routed(m->block))
      continue;
    if (stem.find("compressor") != stem.npos && n.ratio == 0) continue;
    if (stem.find("indexer") != stem.npos && !ModelConfig::overlaps(n.ratio)) continue;
    if (stem == "X") {
      n.inputs.push_back({stream_entering(*m), relation});
    } else if (stem == "/X") {
      n.inputs.push_back({fmt::format("layers.{}.hc_ffn.out", config_.n_layers - 1), relation});
    } else if (relation == Relation::visited) {
      n.inputs.push_back({block_prefix(*m), relation});
    } else {
      std::string name = block_prefix(*m) + std::string(stem);
      if (const auto e = name.find(".E."); e != name.npos)
        name.replace(e, 3, fmt::format(".{}.", m->expert));
      n.inputs.push_back({std::move(name), relation});
    }
  }
}

Provenance::Node& Provenance::node(const std::string& tap) {
  const auto [it, fresh] = nodes_.try_emplace(tap);
  // Names that stand for no tap ("layers.3.", the experts of a block) have no inputs.
  if (fresh && !tap.ends_with('.')) parse_inputs(tap, it->second);
  return it->second;
}

Provenance::Row& Provenance::at(std::vector<Row>& rows, std::int64_t key) {
  if (std::ssize(rows) <= key) rows.resize(static_cast<std::size_t>(key) + 1);
  return rows[static_cast<std::size_t>(key)];
}

void Provenance::read_row(Origin& origin, const Node& from, std::int64_t key) {
  // A row nobody computed yet (it is computed by a later stage in this run) counts as ours from the
  // ids.
  const Row row = key < std::ssize(from.rows) ? from.rows[static_cast<std::size_t>(key)] : Row{};
  origin.span = merge(origin.span, row.span);
  origin.single &= row.present;
  origin.inherited |= row.inherited;
}

void Provenance::read_visible(Origin& origin, Node& from, std::int64_t count) {
  for (auto i = std::ssize(from.prefix); i < count; ++i) {
    Row sum = i < std::ssize(from.rows) ? from.rows[static_cast<std::size_t>(i)] : Row{};
    if (i > 0) {
      const Row& before = from.prefix.back();
      sum.span = merge(before.span, sum.span);
      sum.present &= before.present;
      sum.inherited |= before.inherited;
    }
    from.prefix.push_back(sum);
  }
  if (count == 0) return;
  const Row& all = from.prefix[static_cast<std::size_t>(count - 1)];
  origin.span = merge(origin.span, all.span);
  origin.single &= all.present;
  origin.inherited |= all.inherited;
}

void Provenance::read(Origin& origin, const Input& input, const std::string& reader,
                      std::int64_t key) {
  Node& from = node(input.tap);
  const std::int64_t ratio = std::max<std::int64_t>(1, node(reader).ratio);
  const std::int64_t before = ModelConfig::overlaps(ratio) ? ratio : 0;
  switch (input.relation) {
    case Relation::same:
      return read_row(origin, from, key);
    case Relation::window:
      for (auto p = std::max<std::int64_t>(0, key - config_.window_size + 1); p <= key; ++p)
        read_row(origin, from, p);
      return;
    case Relation::visible:
      return read_visible(origin, from, (key + 1) / ratio);
    case Relation::group:
      for (auto p = std::max<std::int64_t>(0, key * ratio - before); p < (key + 1) * ratio; ++p) {
        read_row(origin, from, p);
      }
      return;
    case Relation::open:  // key: the last position of the call
      for (auto p = std::max<std::int64_t>(0, (key + 1) / ratio * ratio - before); p <= key; ++p) {
        read_row(origin, from, p);
      }
      return;
    case Relation::visited:
      if (key < std::ssize(from.rows) && from.rows[static_cast<std::size_t>(key)].seen) {
        return read_row(origin, from, key);
      }
      // No expert was watched: what the experts read, through stages without a tap of their own.
      for (const char* stem : {"ffn_norm.out", "ffn.gate.weights", "ffn.gate.indices"}) {
        read_row(origin, node(input.tap + stem), key);
      }
      origin.single = false;
      return;
  }
}

Origin Provenance::derive(const std::string& tap, std::int64_t key) {
  Origin origin{-1, true, false};
  const std::vector<Input> inputs = node(tap).inputs;
  for (const Input& input : inputs) read(origin, input, tap, key);
  if (origin.span < 0) origin.span = 0;
  return origin;
}

void Provenance::mark_present(const std::string& tap, std::int64_t key) {
  Node& n = node(tap);
  at(n.rows, key) = {leaf(tap), true, false, true};
}

void Provenance::mark_ours(const std::string& tap, std::int64_t key, const Origin& origin) {
  Node& n = node(tap);
  at(n.rows, key) = {origin.span, false, origin.inherited || exposed_(tap), true};
}

void Provenance::mark_experts(const std::string& block, std::int64_t position, bool all_present) {
  Node& n = node(block);
  at(n.rows, position) = {leaf(block + "ffn.experts.*.out"), all_present, false, all_present};
}

int Provenance::leaf(const std::string& tap) {
  const auto [it, fresh] = leaf_ids_.try_emplace(tap, static_cast<int>(names_.size()));
  if (fresh) names_.push_back(tap);
  return intern({it->second});
}

int Provenance::intern(std::vector<int> set) {
  const auto [it, fresh] = span_ids_.try_emplace(set, static_cast<int>(spans_.size()));
  if (fresh) spans_.push_back(std::move(set));
  return it->second;
}

int Provenance::merge(int a, int b) {
  if (a == b || b < 0) return a;
  if (a < 0) return b;
  const auto key = std::minmax(a, b);
  if (const auto it = merged_.find(key); it != merged_.end()) return it->second;
  std::vector<int> sum;
  const auto& x = spans_[static_cast<std::size_t>(a)];
  const auto& y = spans_[static_cast<std::size_t>(b)];
  std::set_union(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(sum));
  return merged_[key] = intern(std::move(sum));
}

std::vector<std::string> Provenance::span_names(int span) const {
  std::vector<std::string> out;
  for (const int id : spans_[static_cast<std::size_t>(span)])
    out.push_back(names_[static_cast<std::size_t>(id)]);
  return out;
}

}  // namespace dsv4::conformance
