// SPDX-License-Identifier: Apache-2.0
#include "reference/block.hpp"

#include "reference/error_bound.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::reference {
namespace {

HcWeights load_hc(const Checkpoint& c, const std::string& stem) {
  return {c.matrix(stem + "_fn"), c.vector(stem + "_base"), c.vector(stem + "_scale")};
}

CompressorWeights load_compressor(const Checkpoint& c, const std::string& prefix) {
  const Weight ape = c.matrix(prefix + ".ape");
  CompressorWeights w{Mat(ape.rows, ape.cols), c.matrix(prefix + ".wkv"),
                      c.matrix(prefix + ".wgate"), c.vector(prefix + ".norm.weight")};
  dequantize(ape, 0, ape.rows, 0, ape.cols, w.ape.data(), ape.cols);
  return w;
}

AttentionWeights load_attention(const Checkpoint& c, const std::string& prefix,
                                std::int64_t ratio) {
  AttentionWeights w{c.vector(prefix + ".attn_sink"),
                     c.matrix(prefix + ".wq_a"),
                     c.vector(prefix + ".q_norm.weight"),
                     c.matrix(prefix + ".wq_b"),
                     c.matrix(prefix + ".wkv"),
                     c.vector(prefix + ".kv_norm.weight"),
                     c.matrix(prefix + ".wo_a"),
                     c.matrix(prefix + ".wo_b"),
                     {},
                     {}};
  if (ratio != 0) w.compressor = load_compressor(c, prefix + ".compressor");
  if (ModelConfig::overlaps(ratio)) {
    w.indexer = IndexerWeights{c.matrix(prefix + ".indexer.wq_b"),
                               c.matrix(prefix + ".indexer.weights_proj"),
                               load_compressor(c, prefix + ".indexer.compressor")};
  }
  return w;
}

ExpertWeights load_expert(const Checkpoint& c, const std::string& prefix) {
  return {c.matrix(prefix + ".w1"), c.matrix(prefix + ".w2"), c.matrix(prefix + ".w3")};
}

GateWeights load_gate(const Checkpoint& c, const std::string& prefix, bool hashed) {
  GateWeights w{c.matrix(prefix), {}, {}};
  if (hashed) {
    const TensorView& table = c.tensor(prefix + ".tid2eid");
    w.tid2eid = {reinterpret_cast<const std::int64_t*>(table.bytes.data()),
                 table.bytes.size() / sizeof(std::int64_t)};
  } else {
    w.bias = c.vector(prefix + ".bias");
  }
  return w;
}

MoeWeights load_moe(const Checkpoint& c, const std::string& prefix, bool hashed) {
  MoeWeights w{
      load_gate(c, prefix + ".gate", hashed), {}, load_expert(c, prefix + ".shared_experts")};
  for (std::int64_t e = 0; e < c.config().n_routed_experts; ++e) {
    w.experts.push_back(load_expert(c, prefix + ".experts." + std::to_string(e)));
  }
  return w;
}

Mat normed(const Round& round, const Mat& x, const Row& weight, Real eps, const Tap& tap) {
  return tap("out[s,d]", round.bf16("sublayer_norm.out", rms_norm(x, weight, eps)),
             [&] { return error::rms_norm(rms_norm(x, weight, eps), x.cols()); });
}

}  // namespace

BlockWeights load_block(const Checkpoint& c, const std::string& prefix, std::int64_t layer) {
  return {load_hc(c, prefix + ".hc_attn"),
          c.vector(prefix + ".attn_norm.weight"),
          load_attention(c, prefix + ".attn", c.config().ratio(layer)),
          load_hc(c, prefix + ".hc_ffn"),
          c.vector(prefix + ".ffn_norm.weight"),
          load_moe(c, prefix + ".ffn", c.config().hash_routed(layer))};
}

// [docs:block]
Mat Block::forward(const ConstMatRef& streams, std::int64_t start,
                   std::span<const std::int32_t> ids, BlockCache& cache, const Tap& tap) const {
  const HcMix a = hc_pre(config, w.hc_attn, streams, tap.in("hc_attn"), round);
  const Mat y = attention(config, layer, w.attn, frequencies,
                          normed(round, a.x, w.attn_norm, config.norm_eps, tap.in("attn_norm")),
                          start, cache, tap.in("attn"), round);
  const Mat middle = hc_post(config, y, streams, a, tap.in("hc_attn"), round);

  const HcMix b = hc_pre(config, w.hc_ffn, middle, tap.in("hc_ffn"), round);
  const Mat z =
      moe(config, w.ffn, normed(round, b.x, w.ffn_norm, config.norm_eps, tap.in("ffn_norm")), ids,
          tap.in("ffn"), round);
  return hc_post(config, z, middle, b, tap.in("hc_ffn"), round);
}
// [/docs:block]

}  // namespace dsv4::reference
