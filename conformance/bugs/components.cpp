// SPDX-License-Identifier: Apache-2.0
// Each component of a case file, called in the planted copy.
#include "conformance/bugs/components.hpp"

#include <algorithm>
#include <functional>
#include <list>
#include <utility>

#include "conformance/bugs/mutants.hpp"
#include "core/error.hpp"
#include "mutants/core/quantize.hpp"
#include "mutants/reference/attention.hpp"
#include "mutants/reference/experts.hpp"
#include "mutants/reference/gate.hpp"
#include "mutants/reference/hadamard.hpp"
#include "mutants/reference/mhc.hpp"
#include "mutants/reference/rms_norm.hpp"
#include "mutants/reference/rope.hpp"
#include "mutants/switches.hpp"

namespace dsv4::bugs {
namespace {

namespace copy = dsv4_mutants::reference;
using dsv4_mutants::ModelConfig;
using Doubles = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Keeps what a component taps, under the leaf of its name.
class Keep : public dsv4_mutants::TapSink {
 public:
  void on_call(std::int64_t, std::int64_t) override {}
  bool wants(std::string_view) const override { return false; }
  void on_value(dsv4_mutants::TapEvent& e) override {
    const Index rows = e.shape.empty() ? 1 : e.shape[0];
    taken[leaf(e.name)] = Eigen::Map<const Mat>(e.values.data(), rows,
                                                std::ssize(e.values) / std::max<Index>(1, rows));
  }
  void on_index(dsv4_mutants::IndexEvent& e) override {
    const Eigen::Map<const IntMat> values(e.values.data(), e.shape[0], e.shape[1]);
    taken[leaf(e.name)] = values.cast<Real>();
  }
  Arrays taken;

 private:
  static std::string leaf(std::string_view name) {
    return std::string(name.substr(name.rfind('.') + 1));
  }
};

// Inputs by name, and the settings of the case.
class Given {
 public:
  explicit Given(const ComponentCase& c) : case_(c) {}
  const Mat& operator()(const std::string& name) const { return case_.inputs.at(name); }
  bool has(const std::string& name) const { return case_.inputs.contains(name); }
  Row row(const std::string& name) const { return case_.inputs.at(name).row(0); }
  double number(const std::string& name) const { return case_.config.at(name); }
  std::int64_t whole(const std::string& name) const {
    return static_cast<std::int64_t>(case_.config.at(name));
  }
  // A matrix as a weight; it lives as long as this.
  dsv4_mutants::Weight weight(const std::string& name) {
    held_.push_back(case_.inputs.at(name).cast<double>());
    return dsv4_mutants::as_weight(held_.back(), name);
  }
  template <class T>
  std::vector<T> list(const std::string& name) const {
    const Mat& m = case_.inputs.at(name);
    std::vector<T> out(static_cast<std::size_t>(m.size()));
    std::transform(m.data(), m.data() + m.size(), out.begin(),
                   [](Real v) { return static_cast<T>(v); });
    return out;
  }

 private:
  const ComponentCase& case_;
  std::list<Doubles> held_;
};

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

Arrays compress(Given& g) {
  const std::int64_t ratio = g.whole("ratio");
  ModelConfig c;
  c.norm_eps = g.number("eps");
  const copy::CompressorWeights w{g("ape"), g.weight("wkv"), g.weight("wgate"), g.row("norm")};
  copy::CompressorCache cache(ratio, w.norm.size());
  Mat pooled(0, w.norm.size());
  std::int64_t start = 0;
  for (const auto rows : g.list<std::int64_t>("calls")) {
    Keep keep;
    dsv4_mutants::Tap tap(keep);
    tap.bind("s", rows);
    const Mat x = g("x").middleRows(start, rows);
    dsv4_mutants::place() = {ratio, 0, start, rows, 1, false};
    copy::compress(c, ratio, w, g.row("frequencies"), copy::EntryUse::attention, x, start, cache,
                   tap);
    start += rows;
    if (!keep.taken.contains("pooled")) continue;
    const Mat more = keep.taken["pooled"];
    pooled.conservativeResize(pooled.rows() + more.rows(), Eigen::NoChange);
    pooled.bottomRows(more.rows()) = more;
  }
  return {{"pooled", pooled}, {"entries", Mat(cache.entries.view())}};
}

Arrays choose(Given& g) {
  return {{"chosen", copy::top_k(g("scores"), g.whole("k")).cast<Real>()}};
}

Arrays attend(Given& g) {
  const auto chosen = g.list<std::int32_t>("chosen");
  const copy::Sight sight{g.whole("window_first"), g.whole("window_count"), chosen.data(),
                          std::ssize(chosen), 0};
  return {{"o", copy::core_attention(g("q"), g("raw"), g("entries"), sight, g.row("sink")).o}};
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

using Function = std::function<Arrays(Given&)>;

const std::map<std::string, Function>& components() {
  static const std::map<std::string, Function> all = {
      {"rms_norm", norm},
      {"rms_norm_heads", norm_heads},
      {"hadamard", transform},
      {"frequencies", frequencies},
      {"rope", rotate},
      {"sinkhorn", sinkhorn},
      {"hc_pre", hc_pre},
      {"hc_post", hc_post},
      {"compress", compress},
      {"top_k", choose},
      {"core_attention", attend},
      {"gate", gate},
      {"swiglu", swiglu},
      {"weight_fp8", [](Given& g) { return dequantised(g, dsv4_mutants::DType::F8_E4M3); }},
      {"weight_fp4", [](Given& g) { return dequantised(g, dsv4_mutants::DType::I8); }},
      {"encode_e4m3", [](Given& g) { return encoded(g, dsv4_mutants::encode_e4m3); }},
      {"encode_e2m1", [](Given& g) { return encoded(g, dsv4_mutants::encode_e2m1); }},
      {"quantise", quantise},
  };
  return all;
}

}  // namespace

Arrays run_component(const ComponentCase& c, std::span<const std::size_t> thrown) {
  const auto it = components().find(c.component);
  if (it == components().end()) {
    throw TraceError(c.id + ": no component " + c.component, "golden/cases/schema.md lists them");
  }
  dsv4_mutants::switches().reset();
  for (const std::size_t bug : thrown) dsv4_mutants::switches().set(bug);
  dsv4_mutants::codec_thrown() = true;
  dsv4_mutants::place() = {128, 0, 0, 1, 16, false};
  Given given(c);
  return it->second(given);
}

}  // namespace dsv4::bugs
