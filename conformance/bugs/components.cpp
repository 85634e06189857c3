// SPDX-License-Identifier: Apache-2.0
// Each component of a case file but those of attention, called in the planted copy.
#include <algorithm>

#include "conformance/bugs/component_given.hpp"
#include "mutants/core/quantize.hpp"
#include "mutants/reference/experts.hpp"
#include "mutants/reference/gate.hpp"
#include "mutants/reference/hadamard.hpp"
#include "mutants/reference/linear.hpp"
#include "mutants/reference/mhc.hpp"
#include "mutants/reference/mtp.hpp"
#include "mutants/reference/rms_norm.hpp"
#include "mutants/reference/rope.hpp"

namespace dsv4_mutants::reference {
Real log_sum_exp_of(const Row& x);  // hooks.toml
}

namespace dsv4::bugs {
namespace {

namespace copy = dsv4_mutants::reference;
using dsv4_mutants::ModelConfig;

Arrays norm(Given& g) {
  return {{"y", copy::rms_norm(g("x"), g.row("weight"), static_cast<Real>(g.number("eps")))}};
}

Arrays norm_heads(Given& g) {
  const auto eps = static_cast<Real>(g.number("eps"));
  return {{"y", copy::rms_norm_heads(g("x"), g.whole("heads"), eps).value}};
}

Arrays transform(Given& g) { return {{"y", copy::hadamard(g("x"), g.whole("heads"))}}; }

Arrays frequencies(Given& g) {
  ModelConfig c;
  c.rope_head_dim = g.whole("dims");
  c.rope_theta = c.compress_rope_theta = g.number("base");
  c.original_seq_len = g.whole("original");
  c.rope_factor = g.number("factor");
  c.beta_fast = g.number("beta_fast");
  c.beta_slow = g.number("beta_slow");
  return {{"f", copy::rope_frequencies(c, c.original_seq_len > 0 ? 128 : 0)}};
}

Arrays rotate(Given& g) {
  const auto way = g.whole("inverse") != 0 ? copy::Rotation::inverse : copy::Rotation::forward;
  return {{"y", copy::rope(g("x"), g.whole("heads"), g.row("frequencies"),
                           {g.whole("first"), g.whole("step")}, way)}};
}

Arrays sinkhorn(Given& g) {
  return {
      {"comb", copy::sinkhorn(g("logits"), g.whole("rounds"), static_cast<Real>(g.number("eps")))}};
}

Arrays hc_pre(Given& g) {
  ModelConfig c;
  c.hc_mult = 4;
  c.dim = g("streams").cols() / 4;
  c.hc_sinkhorn_iters = g.whole("rounds");
  c.norm_eps = g.number("norm_eps");
  c.hc_eps = g.number("hc_eps");
  Keep keep;
  dsv4_mutants::Tap tap(keep);
  tap.bind("s", g("streams").rows()).bind("n", 4).bind("m", 24).bind("d", c.dim);
  copy::hc_pre(c, {g.weight("fn"), g.row("base"), g.row("scale")}, g("streams"), tap);
  return keep.taken;
}

Arrays hc_post(Given& g) {
  ModelConfig c;
  c.hc_mult = g("post").cols();
  return {{"streams_out", copy::hc_post(c, g("y"), g("streams"), {{}, g("post"), g("comb")}, {})}};
}

Arrays hc_head(Given& g) {
  ModelConfig c;
  c.hc_mult = g("fn").rows();
  c.norm_eps = g.number("norm_eps");
  c.hc_eps = g.number("hc_eps");
  Keep keep;
  dsv4_mutants::Tap tap(keep);
  tap.bind("s", g("streams").rows())
      .bind("n", c.hc_mult)
      .bind("d", g("streams").cols() / c.hc_mult);
  copy::hc_head(c, {g.weight("fn"), g.row("base"), g.row("scale")}, g("streams"), tap);
  return keep.taken;
}

Arrays mtp_input(Given& g) {
  ModelConfig c;
  c.dim = g("e").cols();
  c.hc_mult = g("streams").cols() / c.dim;
  c.norm_eps = g.number("eps");
  copy::MtpWeights w;
  w.e_proj = g.weight("e_proj");
  w.h_proj = g.weight("h_proj");
  w.enorm = g.row("enorm");
  w.hnorm = g.row("hnorm");
  return {{"x", copy::mtp_input(c, w, g("streams"), g("e"), {})}};
}

// Model::head, whose parts have no name of their own there.
Arrays head(Given& g) {
  const Mat x = hc_head(g).at("x");
  const Mat y = copy::rms_norm(x, g.row("norm"), static_cast<Real>(g.number("norm_eps")));
  const Mat z = copy::linear(y, g.weight("head"));
  const auto next = g.list<Index>("next_ids");
  Mat p(1, z.rows());
  for (Index i = 0; i < z.rows(); ++i)
    p(0, i) = z(i, next[static_cast<std::size_t>(i)]) - copy::log_sum_exp_of(z.row(i));
  return {{"y", y}, {"logits", z}, {"logprobs", p}};
}

Arrays gate(Given& g) {
  ModelConfig c;
  c.n_routed_experts = g("weight").rows();
  c.n_activated_experts = g.whole("active");
  c.route_scale = g.number("route_scale");
  std::vector<std::int64_t> table;
  if (g.has("tid2eid")) table = g.list<std::int64_t>("tid2eid");
  const copy::GateWeights w{g.weight("weight"), g.has("bias") ? g.row("bias") : Row(), table};
  const auto ids = g.list<std::int32_t>("ids");
  Keep keep;
  dsv4_mutants::Tap tap(keep);
  tap.bind("s", g("x").rows());
  copy::route(c, w, g("x"), ids, tap);
  return keep.taken;
}

Arrays swiglu(Given& g) {
  return {
      {"hidden",
       copy::swiglu(g("gate"), g("up"), g("weight"), static_cast<Real>(g.number("limit"))).hidden}};
}

Arrays moe(Given& g) {
  ModelConfig c;
  const Index experts = g("weight").rows(), d = g("x").cols(), f = g("w1").cols() / d;
  c.dim = d;
  c.moe_inter_dim = f;
  c.n_routed_experts = experts;
  c.n_activated_experts = g.whole("active");
  c.route_scale = g.number("route_scale");
  c.swiglu_limit = g.number("limit");
  copy::MoeWeights w;
  w.gate = {g.weight("weight"), g.row("bias"), {}};
  for (Index e = 0; e <= experts; ++e) {
    const copy::ExpertWeights one{g.weight("w1", e, d), g.weight("w2", e, f), g.weight("w3", e, d)};
    if (e < experts)
      w.experts.push_back(one);
    else
      w.shared_experts = one;
  }
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(g("x").rows()), 0);
  Keep keep;
  dsv4_mutants::Tap tap(keep);
  tap.bind("s", g("x").rows()).bind("d", d);
  copy::moe(c, w, g("x"), ids, tap);
  return keep.taken;
}

Arrays dequantised(Given& g, dsv4_mutants::DType dtype) {
  const auto codes = g.list<std::uint8_t>("codes"), scale = g.list<std::uint8_t>("scale");
  const bool packed = dtype == dsv4_mutants::DType::I8;
  dsv4_mutants::Weight w;
  w.dtype = dtype;
  w.rows = g("codes").rows();
  w.cols = g("codes").cols() * (packed ? 2 : 1);
  w.data = reinterpret_cast<const std::byte*>(codes.data());
  w.scale = scale.data();
  Mat value(w.rows, w.cols);
  dsv4_mutants::dequantize(w, 0, w.rows, 0, w.cols, value.data(), w.cols);
  return {{"value", value}};
}

Arrays encoded(Given& g, std::uint8_t (*encode)(float)) {
  const Mat& x = g("x");
  return {{"code", x.unaryExpr([encode](Real v) {
             return static_cast<Real>(encode(static_cast<float>(v)));
           })}};
}

Arrays quantise(Given& g) {
  auto x = g.list<float>("x");
  const auto& format =
      g.whole("block") == 64 ? dsv4_mutants::kFp8Block64 : dsv4_mutants::kFp4Block32;
  const std::int64_t count = std::ssize(x);
  std::vector<std::uint8_t> scales(static_cast<std::size_t>(count / format.block));
  dsv4_mutants::quantize_dequantize(format, x.data(), count, nullptr, scales.data());
  const auto row = [](const auto& list) {
    Mat m(1, std::ssize(list));
    std::copy(list.begin(), list.end(), m.data());
    return m;
  };
  return {{"value", row(x)}, {"scale", row(scales)}};
}

}  // namespace

const Components& stage_components() {
  static const Components all = {
      {"rms_norm", norm},
      {"rms_norm_heads", norm_heads},
      {"hadamard", transform},
      {"frequencies", frequencies},
      {"rope", rotate},
      {"sinkhorn", sinkhorn},
      {"hc_pre", hc_pre},
      {"hc_post", hc_post},
      {"hc_head", hc_head},
      {"mtp_input", mtp_input},
      {"head", head},
      {"gate", gate},
      {"swiglu", swiglu},
      {"moe", moe},
      {"weight_fp8", [](Given& g) { return dequantised(g, dsv4_mutants::DType::F8_E4M3); }},
      {"weight_fp4", [](Given& g) { return dequantised(g, dsv4_mutants::DType::I8); }},
      {"encode_e4m3", [](Given& g) { return encoded(g, dsv4_mutants::encode_e4m3); }},
      {"encode_e2m1", [](Given& g) { return encoded(g, dsv4_mutants::encode_e2m1); }},
      {"quantise", quantise},
  };
  return all;
}

}  // namespace dsv4::bugs
