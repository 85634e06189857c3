// SPDX-License-Identifier: Apache-2.0
// The components of attention of a case file, called in the planted copy; and the call of any.
#include "conformance/bugs/component_given.hpp"
#include "conformance/bugs/mutants.hpp"
#include "core/error.hpp"
#include "mutants/reference/attention.hpp"
#include "mutants/switches.hpp"

namespace dsv4_mutants::reference {
// What has no name outside its file; hooks.toml gives it one in the copy.
Mat grouped_output(const ModelConfig& config, const ConstMatRef& o, const Weight& wo_a);
Row index_score(const Mat& q, const Mat& weights, std::int64_t position, Index heads,
                const ConstMatRef& keys);
std::int64_t& run();  // its number
}  // namespace dsv4_mutants::reference

namespace dsv4::bugs {
namespace {

namespace copy = dsv4_mutants::reference;
using dsv4_mutants::ModelConfig;

// Rows of a compressor's state that a later token may need: the group before, once there is one,
// and the open group.
struct Live {
  Live(std::int64_t ratio, std::int64_t position)
      : before(ModelConfig::overlaps(ratio) && position >= ratio ? ratio : 0),
        first(ModelConfig::overlaps(ratio) && before == 0 ? ratio : 0),
        count(before + position % ratio) {}
  Index before, first, count;
};

copy::CompressorWeights compressor(Given& g) {
  return {g("ape"), g.weight("wkv"), g.weight("wgate"), g.row("norm")};
}

Arrays compress(Given& g) {
  const std::int64_t ratio = g.whole("ratio");
  ModelConfig c;
  c.norm_eps = g.number("eps");
  const copy::CompressorWeights w = compressor(g);
  std::int64_t start = g.whole("start");
  Mat pooled(0, w.norm.size());
  const auto call = [&](const Mat& x, copy::CompressorCache& cache) {
    Keep keep;
    dsv4_mutants::Tap tap(keep);
    tap.bind("s", x.rows());
    dsv4_mutants::place() = {ratio, 0, start, x.rows(), 1, false};
    copy::compress(c, ratio, w, g.row("frequencies"), copy::EntryUse::attention, x, start, cache,
                   tap);
    if (keep.taken.contains("pooled")) append(pooled, keep.taken["pooled"]);
  };
  if (g.has("earlier_prompt")) {
    copy::CompressorCache earlier(ratio, w.norm.size());
    call(g("earlier_prompt"), earlier);
    pooled.resize(0, w.norm.size());
  }
  copy::CompressorCache cache(ratio, w.norm.size());
  if (g.has("kv_state")) {
    const Live live(ratio, start);
    cache.state.kv.middleRows(live.first, live.count) = g("kv_state");
    cache.state.score.middleRows(live.first, live.count) = g("score_state");
  }
  Index done = 0;
  for (const auto rows : g.list<std::int64_t>("calls")) {
    call(g("x").middleRows(done, rows), cache);
    start += rows;
    done += rows;
  }
  const Live live(ratio, start);
  return {{"pooled", pooled},
          {"entries", Mat(cache.entries.view())},
          {"kv_state", Mat(cache.state.kv.middleRows(live.first, live.count))},
          {"score_state", Mat(cache.state.score.middleRows(live.first, live.count))}};
}

Arrays choose(Given& g) {
  return {{"chosen", copy::top_k(g("scores"), g.whole("k")).cast<Real>()}};
}

// The indexer over several calls, as it runs when nobody looks at the scores.
Arrays index(Given& g) {
  ModelConfig c;
  c.index_n_heads = g.whole("heads");
  c.index_head_dim = g("norm").cols();
  c.index_topk = g.whole("k");
  c.norm_eps = g.number("eps");
  const copy::IndexerWeights w{g.weight("wq_b"), g.weight("weights_proj"), compressor(g)};
  copy::CompressorCache cache(4, c.index_head_dim);
  std::int64_t start = 0;
  Arrays all;
  for (const auto rows : g.list<std::int64_t>("calls")) {
    Keep keep;
    dsv4_mutants::Tap tap(keep);
    tap.bind("s", rows);
    dsv4_mutants::place() = {4, 0, start, rows, 1, false};
    copy::index(c, w, g.row("frequencies"), g("x").middleRows(start, rows),
                g("qr").middleRows(start, rows), start, cache, tap);
    append(all["q"], keep.taken["q"]);
    append(all["weights"], keep.taken["weights"]);
    append(all["topk_idxs"], keep.taken["topk_idxs"], -1);
    start += rows;
  }
  return all;
}

Arrays index_scores(Given& g) {
  const auto at = g.list<std::int64_t>("positions");
  Arrays all;
  for (Index i = 0; i < g("q").rows(); ++i) {
    append(all["scores"],
           copy::index_score(g("q").row(i), g("weights").row(i), at[static_cast<std::size_t>(i)],
                             g.whole("heads"), g("keys")));
  }
  return all;
}

Arrays attend(Given& g) {
  const auto chosen = g.list<std::int32_t>("chosen");
  const auto window = g.list<Index>("window");
  const Index places = g("chosen").cols();
  Mat o(g("q").rows(), g("q").cols());
  for (Index i = 0; i < o.rows(); ++i) {
    const copy::Sight sight{window[static_cast<std::size_t>(2 * i)],
                            window[static_cast<std::size_t>(2 * i + 1)], chosen.data() + i * places,
                            places, 0};
    o.row(i) = copy::core_attention(g("q").row(i), g("raw"), g("entries"), sight, g.row("sink")).o;
  }
  return {{"o", o}};
}

Arrays grouped_output(Given& g) {
  ModelConfig c;
  c.n_heads = g.whole("heads");
  c.head_dim = g("o").cols() / c.n_heads;
  c.o_groups = g.whole("groups");
  c.o_lora_rank = g("wo_a").rows() / c.o_groups;
  return {{"o_lora", copy::grouped_output(c, g("o"), g.weight("wo_a"))}};
}

Arrays window_attention(Given& g) {
  ModelConfig c;
  c.n_layers = 1;
  c.dim = g("x").cols();
  c.n_heads = g.whole("heads");
  c.head_dim = g("wkv").rows();
  c.rope_head_dim = 2 * g("frequencies").cols();
  c.q_lora_rank = g("wq_a").rows();
  c.o_groups = g.whole("groups");
  c.o_lora_rank = g("wo_a").rows() / c.o_groups;
  c.window_size = g.whole("window");
  c.compress_ratios = {0};
  c.norm_eps = g.number("eps");
  copy::AttentionWeights w{g.row("attn_sink"),
                           g.weight("wq_a"),
                           g.row("q_norm"),
                           g.weight("wq_b"),
                           g.weight("wkv"),
                           g.row("kv_norm"),
                           g.weight("wo_a"),
                           g.weight("wo_b"),
                           {},
                           {}};
  copy::BlockCache cache(c, 0);
  std::int64_t start = 0;
  Arrays all;
  for (const auto rows : g.list<std::int64_t>("calls")) {
    Keep keep;
    dsv4_mutants::Tap tap(keep);
    tap.bind("s", rows).bind("d", c.dim);
    copy::attention(c, 0, w, g.row("frequencies"), g("x").middleRows(start, rows), start, cache,
                    tap);
    for (const char* name : {"q", "kv", "o", "o_lora", "out"}) append(all[name], keep.taken[name]);
    start += rows;
  }
  return all;
}

}  // namespace

const Components& attention_components() {
  static const Components all = {
      {"compress", compress},
      {"top_k", choose},
      {"index", index},
      {"index_scores", index_scores},
      {"core_attention", attend},
      {"grouped_output", grouped_output},
      {"window_attention", window_attention},
  };
  return all;
}

Arrays run_component(const ComponentCase& c, std::span<const std::size_t> thrown) {
  const Component* run = nullptr;
  for (const Components* part : {&stage_components(), &attention_components()}) {
    if (const auto it = part->find(c.component); it != part->end()) run = &it->second;
  }
  if (run == nullptr) {
    throw TraceError(c.id + ": no component " + c.component, "golden/cases/schema.md lists them");
  }
  dsv4_mutants::switches().reset();
  for (const std::size_t bug : thrown) dsv4_mutants::switches().set(bug);
  dsv4_mutants::codec_thrown() = true;
  dsv4_mutants::place() = {128, 0, 0, 1, 16, false};
  ++copy::run();
  Given given(c);
  return (*run)(given);
}

}  // namespace dsv4::bugs
