// SPDX-License-Identifier: Apache-2.0
// The running error bounds mean something: every stage of a small model is computed again in
// float32 from the same inputs, and what it is off by stays below 2^-24 E, without E being absurdly
// large.
#include "reference/error_bound.hpp"

#include <gtest/gtest.h>
#include <map>
#include <string>

#include "reference/float_twins.hpp"
#include "support/matrices.hpp"
#include "support/random_model.hpp"

namespace dsv4::reference {
namespace {

namespace twin = testing::float_twin;
using twin::FloatMat;

constexpr Real kFloatUnit = 0x1p-24;

// Keeps each float64 value and its bound, and hands on the value rounded to float32: so every stage
// starts from floats, and a float32 twin of that stage has exactly the same inputs.
class FloatFeeder : public TapSink {
 public:
  struct Stage {
    Mat value, error;
    FloatMat passed_on;
  };
  std::map<std::string, Stage, std::less<>> stages;

  const Stage& at(const std::string& name) const { return stages.at(name); }
  const FloatMat& in(const std::string& name) const { return stages.at(name).passed_on; }

  void on_value(TapEvent& event) override {
    const Index rows = event.axes == "v" ? 1 : event.shape[0];
    const auto size = static_cast<Index>(event.values.size());
    const Index cols = rows == 0 ? 0 : size / rows;
    const Eigen::Map<Mat> values(event.values.data(), rows, cols);
    Stage& stage = stages[std::string(event.name)];
    stage.value = values;
    if (event.error) {
      const Mat e = event.error();
      stage.error = Eigen::Map<const Mat>(e.data(), rows, cols);
    }
    stage.passed_on = values.cast<float>();
    for (Index i = 0; i < size; ++i)
      event.values[static_cast<std::size_t>(i)] = static_cast<Real>(stage.passed_on.data()[i]);
  }
  void on_index(IndexEvent& event) override {
    const Eigen::Map<const IntMat> v(event.values.data(), event.shape[0],
                                     event.shape.size() > 1 ? event.shape[1] : 1);
    stages[std::string(event.name)].passed_on = v.cast<float>();
  }
  void on_call(std::int64_t, std::int64_t) override {}
  bool wants(std::string_view) const override { return true; }
};

constexpr Index kTokens = 40;

class ErrorBound : public ::testing::TestWithParam<std::int64_t> {
 protected:
  static const testing::LoadedModel& model() {
    static const testing::LoadedModel m(testing::small_config(), 21);
    return m;
  }
  static const FloatFeeder& feeder() {
    static const FloatFeeder f = [] {
      FloatFeeder sink;
      KvCache cache = model().model.new_cache();
      const auto ids = testing::random_ids(model().config(), kTokens + 1, 2);
      model().model.forward(ids, kTokens, cache, Tap(sink), testing::with_mtp());
      return sink;
    }();
    return f;
  }

  std::int64_t layer() const { return GetParam(); }
  std::int64_t ratio() const { return c.ratio(layer()); }
  std::string p() const { return "layers." + std::to_string(layer()) + "."; }
  const FloatMat& in(const std::string& name) const { return feeder().in(p() + name); }
  FloatMat weight(const std::string& stem) const {
    return twin::weight(model().checkpoint.matrix(p() + stem));
  }
  std::vector<float> vector(const std::string& name) const {
    const Row v = model().checkpoint.vector(p() + name);
    return {v.data(), v.data() + v.size()};
  }

  // The float32 twin's error is within u E, and E is at most `loose` times the worst one seen.
  void expect_bounded(const std::string& name, const FloatMat& computed, Real loose = 1000) const {
    const auto& stage = feeder().at(p() + name);
    ASSERT_EQ(stage.error.size(), stage.value.size()) << name << " has no bound";
    const Mat f = computed.cast<Real>();
    // 2^-20 of slack for terms of second order.
    EXPECT_TRUE(testing::within(f, stage.value, stage.error * (kFloatUnit * (1 + 0x1p-20))))
        << p() << name;
    Real observed = 0;
    for (Index i = 0; i < f.size(); ++i) {
      const Real bound = stage.error.data()[i] * kFloatUnit;
      if (!std::isfinite(f.data()[i]) || bound == 0) continue;
      observed = std::max(observed, std::abs(f.data()[i] - stage.value.data()[i]) / bound);
    }
    EXPECT_GT(observed, 1 / loose) << p() << name << ": the bound is far above what happens";
  }

  const ModelConfig& c = model().config();
  const float eps = static_cast<float>(c.norm_eps);
};

TEST_P(ErrorBound, OfLinearStagesHolds) {
  const auto check = [&](const std::string& out, const std::string& x, const std::string& w) {
    expect_bounded(out, twin::linear(in(x), weight(w)));
  };
  check("attn.wq_a.out", "attn_norm.out", "attn.wq_a");
  check("attn.wq_b.out", "attn.qr", "attn.wq_b");
  check("attn.wkv.out", "attn_norm.out", "attn.wkv");
  check("attn.out", "attn.o_lora", "attn.wo_b");
  check("ffn.gate.logits", "ffn_norm.out", "ffn.gate");
  if (ratio() != 0) {
    check("attn.compressor.kv_proj", "attn_norm.out", "attn.compressor.wkv");
    check("attn.compressor.score", "attn_norm.out", "attn.compressor.wgate");
  }
  if (ratio() == 4) {
    check("attn.indexer.wq_b.out", "attn.qr", "attn.indexer.wq_b");
    check("attn.indexer.compressor.kv_proj", "attn_norm.out", "attn.indexer.compressor.wkv");
    FloatMat weights = twin::linear(in("attn_norm.out"), weight("attn.indexer.weights_proj"));
    weights *= 1 / std::sqrt(static_cast<float>(c.index_head_dim * c.index_n_heads));
    expect_bounded("attn.indexer.weights", weights);
  }
  const FloatMat wo_a = weight("attn.wo_a");
  const FloatMat& o = in("attn.o_derotated");
  const Index width = wo_a.cols();
  const Index rank = c.o_lora_rank;
  FloatMat u(o.rows(), c.o_groups * rank);
  for (Index g = 0; g < c.o_groups; ++g)
    u.middleCols(g * rank, rank) =
        twin::linear(o.middleCols(g * width, width), wo_a.middleRows(g * rank, rank));
  expect_bounded("attn.o_lora", u);
}

TEST_P(ErrorBound, OfNormsHolds) {
  const auto check = [&](const std::string& out, const std::string& x, const std::string& w) {
    expect_bounded(out, twin::rms_norm(in(x), 1, vector(w), eps));
  };
  check("attn_norm.out", "hc_attn.x", "attn_norm.weight");
  check("ffn_norm.out", "hc_ffn.x", "ffn_norm.weight");
  check("attn.qr", "attn.wq_a.out", "attn.q_norm.weight");
  check("attn.kv_normed", "attn.wkv.out", "attn.kv_norm.weight");
  expect_bounded("attn.q_normed", twin::rms_norm(in("attn.wq_b.out"), c.n_heads, {}, eps));
  if (ratio() != 0)
    check("attn.compressor.normed", "attn.compressor.pooled", "attn.compressor.norm.weight");
}

TEST_P(ErrorBound, OfRotationsHolds) {
  const std::vector<float> f = twin::frequencies(c, ratio());
  const Positions at{0};
  expect_bounded("attn.q", twin::rope(in("attn.q_normed"), c.n_heads, f, at, 1));
  expect_bounded("attn.kv_roped", twin::rope(in("attn.kv_normed"), 1, f, at, 1));
  expect_bounded("attn.o_derotated", twin::rope(in("attn.o"), c.n_heads, f, at, -1));
  if (ratio() != 0) {
    expect_bounded("attn.compressor.roped",
                   twin::rope(in("attn.compressor.normed"), 1, f, Positions{0, ratio()}, 1));
  }
  if (ratio() == 4) {
    const Index heads = c.index_n_heads;
    expect_bounded("attn.indexer.q_roped",
                   twin::rope(in("attn.indexer.wq_b.out"), heads, f, at, 1));
    expect_bounded("attn.indexer.q_rotated", twin::hadamard(in("attn.indexer.q_roped"), heads));
    expect_bounded("attn.indexer.compressor.rotated",
                   twin::hadamard(in("attn.indexer.compressor.roped"), 1));
  }
}

TEST_P(ErrorBound, OfHyperConnectionsHolds) {
  const Index n = c.hc_mult;
  const Index d = c.dim;
  const FloatMat entering =
      layer() > 0 ? feeder().in("layers." + std::to_string(layer() - 1) + ".hc_ffn.out")
                  : FloatMat(feeder().in("embed").replicate(1, n));
  for (const std::string hc : {"hc_attn", "hc_ffn"}) {
    const FloatMat& x = hc == "hc_attn" ? entering : in("hc_attn.out");
    const FloatMat fn = weight(hc + "_fn");
    const auto base = vector(hc + "_base");
    const auto scale = vector(hc + "_scale");
    FloatMat mixes = twin::linear(x, fn);
    for (Index s = 0; s < x.rows(); ++s) {
      float square = 0;
      for (Index i = 0; i < n * d; ++i) square += x(s, i) * x(s, i);
      mixes.row(s) *= 1 / std::sqrt(square / static_cast<float>(n * d) + eps);
    }
    expect_bounded(hc + ".mixes", mixes);

    const FloatMat& m = in(hc + ".mixes");
    const auto a = [&](Index s, Index k, std::size_t part) {
      return m(s, k) * scale[part] + base[static_cast<std::size_t>(k)];
    };
    FloatMat pre(x.rows(), n), post(x.rows(), n), comb(x.rows(), n * n), in_x(x.rows(), d);
    for (Index s = 0; s < x.rows(); ++s) {
      std::vector<float> logits;
      for (Index j = 0; j < n; ++j) {
        pre(s, j) = twin::sigmoid(a(s, j, 0)) + static_cast<float>(c.hc_eps);
        post(s, j) = 2 * twin::sigmoid(a(s, n + j, 1));
      }
      for (Index k = 0; k < n * n; ++k) logits.push_back(a(s, 2 * n + k, 2));
      logits = twin::sinkhorn(logits, static_cast<std::size_t>(n), c.hc_sinkhorn_iters,
                              static_cast<float>(c.hc_eps));
      for (Index k = 0; k < n * n; ++k) comb(s, k) = logits[static_cast<std::size_t>(k)];
      for (Index i = 0; i < d; ++i) {
        float sum = 0;
        for (Index j = 0; j < n; ++j) sum += in(hc + ".pre")(s, j) * x(s, j * d + i);
        in_x(s, i) = sum;
      }
    }
    expect_bounded(hc + ".pre", pre);
    expect_bounded(hc + ".post", post);
    expect_bounded(hc + ".comb", comb);
    expect_bounded(hc + ".x", in_x);

    const FloatMat& y = in(hc == "hc_attn" ? "attn.out" : "ffn.out");
    FloatMat next(x.rows(), n * d);
    for (Index s = 0; s < x.rows(); ++s) {
      for (Index k = 0; k < n; ++k) {
        for (Index i = 0; i < d; ++i) {
          float sum = in(hc + ".post")(s, k) * y(s, i);
          for (Index j = 0; j < n; ++j) sum += in(hc + ".comb")(s, j * n + k) * x(s, j * d + i);
          next(s, k * d + i) = sum;
        }
      }
    }
    expect_bounded(hc + ".out", next);
  }
}

TEST_P(ErrorBound, OfPoolingHolds) {
  if (ratio() == 0) return;
  const Index r = ratio();
  for (const std::string stem : {"attn.compressor", "attn.indexer.compressor"}) {
    if (stem == "attn.indexer.compressor" && r != 4) continue;
    const FloatMat& k = in(stem + ".kv_proj");
    const FloatMat& z = in(stem + ".score");
    const FloatMat ape = weight(stem + ".ape");
    const Index width = r == 4 ? k.cols() / 2 : k.cols();
    FloatMat pooled(kTokens / r, width);
    for (Index e = 0; e < pooled.rows(); ++e) {
      for (Index ch = 0; ch < width; ++ch) {
        std::vector<float> score, value;
        const auto add = [&](Index t, Index column) {
          score.push_back(z(t, column) + ape(t % r, column));
          value.push_back(k(t, column));
        };
        for (Index t = (e - 1) * r; r == 4 && e > 0 && t < e * r; ++t) add(t, ch);
        for (Index t = e * r; t < (e + 1) * r; ++t) add(t, r == 4 ? width + ch : ch);
        pooled(e, ch) = twin::pool(score, value);
      }
    }
    expect_bounded(stem + ".pooled", pooled);
  }
}

TEST_P(ErrorBound, OfIndexScoresHolds) {
  if (ratio() != 4) return;
  const FloatMat& q = in("attn.indexer.q");
  const FloatMat& k = in("attn.indexer.compressor.entry");
  const FloatMat& w = in("attn.indexer.weights");
  const Index j = c.index_head_dim;
  FloatMat scores(q.rows(), k.rows());
  for (Index t = 0; t < q.rows(); ++t) {
    for (Index e = 0; e < k.rows(); ++e) {
      float sum = 0;
      for (Index h = 0; h < c.index_n_heads; ++h) {
        float dot = 0;
        for (Index i = 0; i < j; ++i) dot += q(t, h * j + i) * k(e, i);
        sum += w(t, h) * std::max(dot, 0.0F);
      }
      scores(t, e) = (e + 1) * 4 <= t + 1 ? sum : -std::numeric_limits<float>::infinity();
    }
  }
  expect_bounded("attn.indexer.index_score", scores);
}

TEST_P(ErrorBound, OfCoreAttentionHolds) {
  const FloatMat& q = in("attn.q");
  const FloatMat& kv = in("attn.kv");
  const auto sink = vector("attn.attn_sink");
  const Index w = c.head_dim;
  FloatMat o(q.rows(), q.cols()), lse(q.rows(), c.n_heads);
  for (Index t = 0; t < q.rows(); ++t) {
    std::vector<const float*> e;
    for (Index s = std::max<Index>(0, t - c.window_size + 1); s <= t; ++s)
      e.push_back(kv.row(s).data());
    const FloatMat* entries = ratio() == 0 ? nullptr : &in("attn.compressor.entry");
    if (ratio() == 4) {
      for (const float s : in("attn.indexer.topk_idxs").row(t))
        if (s >= 0) e.push_back(entries->row(static_cast<Index>(s)).data());
    } else if (ratio() != 0) {
      for (Index s = 0; s < (t + 1) / ratio(); ++s) e.push_back(entries->row(s).data());
    }
    for (Index h = 0; h < c.n_heads; ++h) {
      std::vector<float> z;
      for (const float* row : e) {
        float dot = 0;
        for (Index i = 0; i < w; ++i) dot += q(t, h * w + i) * row[i];
        z.push_back(dot / std::sqrt(static_cast<float>(w)));
      }
      const float most = *std::max_element(z.begin(), z.end());
      float sum = std::exp(sink[static_cast<std::size_t>(h)] - most);
      for (float& x : z) sum += x = std::exp(x - most);
      lse(t, h) = most + std::log(sum);
      for (Index i = 0; i < w; ++i) {
        float value = 0;
        for (std::size_t k = 0; k < e.size(); ++k) value += z[k] / sum * e[k][i];
        o(t, h * w + i) = value;
      }
    }
  }
  expect_bounded("attn.o", o);
  expect_bounded("attn.lse", lse);
}

TEST_P(ErrorBound, OfTheMixtureOfExpertsHolds) {
  const FloatMat scores =
      in("ffn.gate.logits").unaryExpr([](float x) { return twin::sqrt_softplus(x); });
  expect_bounded("ffn.gate.scores", scores);
  const FloatMat& indices = in("ffn.gate.indices");
  FloatMat weights(indices.rows(), indices.cols());
  for (Index s = 0; s < indices.rows(); ++s) {
    float sum = 0;
    for (Index k = 0; k < indices.cols(); ++k)
      sum += in("ffn.gate.scores")(s, static_cast<Index>(indices(s, k)));
    for (Index k = 0; k < indices.cols(); ++k)
      weights(s, k) = in("ffn.gate.scores")(s, static_cast<Index>(indices(s, k))) / sum *
                      static_cast<float>(c.route_scale);
  }
  expect_bounded("ffn.gate.weights", weights);

  const auto limit = static_cast<float>(c.swiglu_limit);
  const FloatMat& x = in("ffn_norm.out");
  const auto clamp_up = [&](float v) { return std::clamp(v, -limit, limit); };
  const auto clamp_gate = [&](float v) { return std::min(v, limit); };
  FloatMat routed = FloatMat::Zero(x.rows(), x.cols());
  for (Index e = 0; e < c.n_routed_experts; ++e) {
    const std::string stem = "ffn.experts." + std::to_string(e);
    if (!feeder().stages.contains(p() + stem + ".rows")) continue;
    const FloatMat& rows = in(stem + ".rows");
    FloatMat x_e(rows.rows(), x.cols());
    FloatMat hidden = in(stem + ".gate");
    for (Index y = 0; y < rows.rows(); ++y) {
      const auto token = static_cast<Index>(rows(y, 0));
      x_e.row(y) = x.row(token);
      routed.row(token) += in(stem + ".out").row(y);
      Index choice = 0;
      while (static_cast<Index>(indices(token, choice)) != e) ++choice;
      for (Index k = 0; k < hidden.cols(); ++k)
        hidden(y, k) = in("ffn.gate.weights")(token, choice) *
                       (twin::silu(hidden(y, k)) * in(stem + ".up")(y, k));
    }
    expect_bounded(stem + ".gate", twin::linear(x_e, weight(stem + ".w1")).unaryExpr(clamp_gate));
    expect_bounded(stem + ".up", twin::linear(x_e, weight(stem + ".w3")).unaryExpr(clamp_up));
    expect_bounded(stem + ".hidden", hidden);
    expect_bounded(stem + ".out", twin::linear(in(stem + ".hidden"), weight(stem + ".w2")));
  }
  expect_bounded("ffn.routed", routed);
  const FloatMat a = twin::linear(x, weight("ffn.shared_experts.w1")).unaryExpr(clamp_gate);
  const FloatMat b = twin::linear(x, weight("ffn.shared_experts.w3")).unaryExpr(clamp_up);
  const FloatMat h = a.unaryExpr([](float v) { return twin::silu(v); }).cwiseProduct(b);
  expect_bounded("ffn.shared", twin::linear(h, weight("ffn.shared_experts.w2")));
  expect_bounded("ffn.out", in("ffn.routed") + in("ffn.shared"));
}

INSTANTIATE_TEST_SUITE_P(Layers, ErrorBound, ::testing::Values(0, 1, 2, 3),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace dsv4::reference
