// SPDX-License-Identifier: Apache-2.0
#include "cli/kernel_stages.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

#include "cli/kernel_arrays.hpp"
#include "core/dtype.hpp"
#include "core/quantize.hpp"
#include "core/taps.hpp"
#include "reference/error_bound.hpp"
#include "reference/hadamard.hpp"
#include "reference/linear.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"

namespace dsv4::cli {
namespace {

namespace error = reference::error;

}  // namespace

KernelStages::KernelStages(TapSink& to, const conformance::Case& request, stages::Stages& kernels,
                           std::vector<KernelResult>& results)
    : to_(to),
      request_(request),
      config_(request.checkpoint->config()),
      results_(results),
      round_(request.numerics),
      kernels_(kernels) {
  const std::int64_t last = request.last_layer < 0 ? config_.n_layers - 1 : request.last_layer;
  for (std::int64_t l = request.first_layer; l <= last; ++l) {
    add_place(fmt::format("layers.{}", l), l,
              l == 0 ? "embed" : fmt::format("layers.{}.hc_ffn.out", l - 1));
  }
  for (std::int64_t j = 0; request.mtp && j < config_.n_mtp_layers; ++j) {
    add_place(fmt::format("mtp.{}", j), config_.n_layers + j, fmt::format("mtp.{}.x", j));
  }
}

void KernelStages::add_place(const std::string& prefix, std::int64_t layer,
                             const std::string& streams) {
  const std::int64_t ratio = config_.ratio(layer);
  places_.push_back({prefix,
                     layer,
                     reference::load_block(*request_.checkpoint, prefix, layer),
                     reference::rope_frequencies(config_, ratio, round_),
                     streams,
                     {},
                     {}});
  Place& p = places_.back();
  if (ratio != 0) p.caches.try_emplace(false, ratio, config_.head_dim);
  if (ModelConfig::overlaps(ratio)) p.caches.try_emplace(true, ratio, config_.index_head_dim);
  for (auto& [indexing, cache] : p.caches) {
    p.states[indexing] = {floats(cache.state.kv), floats(cache.state.score)};
  }
}

void KernelStages::on_call(std::int64_t start, std::int64_t end) {
  close_call();
  start_ = start;
  end_ = end;
  ++call_;
  to_.on_call(start, end);
}

// What passed by and no kernel computed.
void KernelStages::close_call() {
  for (const std::string& tap : seen_) {
    if (!covered_.contains(tap)) {
      results_.push_back({tap, call_, KernelVerdict::not_exposed, "no kernel computes it"});
    }
  }
  seen_.clear();
  covered_.clear();
  values_.clear();
}

void KernelStages::on_value(TapEvent& event) {
  to_.on_value(event);  // which may put the trace's rows in their place
  const std::string tap(event.name);
  const auto rows = event.shape.empty() ? 1 : event.shape[0];
  const bool single = event.shape.size() < 2;
  Mat m(single ? 1 : rows, rows == 0 ? 0 : std::ssize(event.values) / (single ? 1 : rows));
  std::copy(event.values.begin(), event.values.end(), m.data());
  values_[tap] = std::move(m);
  seen_.push_back(tap);
  stage(tap);
}

void KernelStages::on_index(IndexEvent& event) {
  to_.on_index(event);
  const std::string tap(event.name);
  Mat m(event.shape[0], event.shape.size() > 1 ? event.shape[1] : 1);
  std::copy(event.values.begin(), event.values.end(), m.data());
  values_[tap] = std::move(m);
  seen_.push_back(tap);
}

KernelStages::Place* KernelStages::place_of(const std::string& tap) {
  for (Place& p : places_) {
    if (tap.starts_with(p.prefix + ".")) return &p;
  }
  return nullptr;
}

const Mat& KernelStages::value(const std::string& tap) const { return values_.at(tap); }

void KernelStages::stage(const std::string& tap) {
  const std::size_t before = results_.size();
  if (tap == "norm.out") {
    norm(tap, "hc_head.x", request_.checkpoint->vector("norm.weight"), "norm.out");
  } else if (Place* p = place_of(tap)) {
    stage_in(*p, tap.substr(p->prefix.size() + 1));
  }
  for (std::size_t i = before; i < results_.size(); ++i) covered_.insert(results_[i].tap);
}

void KernelStages::stage_in(Place& p, const std::string& leaf) {
  const std::string at = p.prefix + ".";
  const auto norm_of = [&](const std::string& from, const Row& w, std::string_view site) {
    norm(at + leaf, at + from, w, site);
  };
  if (leaf == "hc_attn.x") return mhc_before_attention(p);
  if (leaf == "hc_ffn.x") return mhc_before_experts(p);
  if (leaf == "hc_ffn.out") return mhc_at_the_end(p);
  if (leaf == "attn_norm.out")
    return norm_of("hc_attn.x", p.weights.attn_norm, "sublayer_norm.out");
  if (leaf == "ffn_norm.out") return norm_of("hc_ffn.x", p.weights.ffn_norm, "sublayer_norm.out");
  if (leaf == "attn.qr") return norm_of("attn.wq_a.out", p.weights.attn.q_norm, "attn.qr");
  if (leaf == "norm.out") {
    return norm_of("hc_head.x", request_.checkpoint->vector(at + "norm.weight"), "norm.out");
  }
  if (leaf == "attn.kv") return attention_inputs(p);
  if (leaf == "attn.compressor.score") return compress(p, false);
  if (leaf == "attn.indexer.compressor.score") return compress(p, true);
  if (leaf == "attn.indexer.q") return index_queries(p);
  if (leaf == "ffn.gate.weights") return gate(p);
  linears(p, leaf);
}

void KernelStages::norm(const std::string& tap, const std::string& from, const Row& weight,
                        std::string_view site) {
  if (!known(from)) return;
  const Mat& x = value(from);
  StageJudge judge(call_, results_);
  judge.kernel(tap, matrix(kernels_.rms_norm(bf16s(x), static_cast<int>(x.rows()), floats(weight),
                                             static_cast<float>(config_.norm_eps)),
                           x.rows()));
  Tap to(judge);
  to.bind("s", x.rows()).bind("d", x.cols());
  const Mat y = reference::rms_norm(x, weight, config_.norm_eps);
  to(tap + "[s,d]", round_.bf16(site, y), [&] { return error::rms_norm(y, x.cols()); });
}

Mat KernelStages::quantised(const std::string& tap, const Mat& x) {
  const auto rows = static_cast<int>(x.rows()), columns = static_cast<int>(x.cols());
  const stages::Quantized q =
      kernels_.quantize(stages::Quantizer::fp8_128, bf16s(x), rows, columns);
  Mat out(x.rows(), x.cols());
  for (Index i = 0; i < x.size(); ++i) {
    out.data()[i] = static_cast<Real>(decode_e4m3(q.codes[static_cast<std::size_t>(i)])) *
                    static_cast<Real>(decode_e8m0(q.scales[static_cast<std::size_t>(i / 128)]));
  }
  StageJudge(call_, results_).exactly(tap, out, plain(round_.e4m3("attn.wq_a.in", x, 128)));
  return out;
}

void KernelStages::product(const std::string& tap, const Mat& x, const Weight& w,
                           std::string_view site) {
  StageJudge judge(call_, results_);
  judge.kernel(tap,
               matrix(kernels_.linear(bf16s(x), static_cast<int>(x.rows()), codes(w)), x.rows()),
               {static_cast<double>(w.cols)});
  Tap to(judge);
  to.bind("s", x.rows()).bind("d", w.rows);
  to(tap + "[s,d]", round_.bf16(site, reference::linear(x, w)),
     [&] { return error::linear(x, w); });
}

// Products with FP8 weights. Their inputs are quantised by the kernel, once where two share one.
void KernelStages::linears(Place& p, const std::string& leaf) {
  const std::string at = p.prefix + ".";
  struct Product {
    const char* leaf;
    const char* in;
    const char* from;
    const Weight* w;
    const char* site;
  };
  const auto& w = p.weights.attn;
  const Product products[] = {
      {"attn.wq_a.out", "attn.wq_a.in", "attn_norm.out", &w.wq_a, "attn.wq_a.out"},
      {"attn.wkv.out", "attn.wkv.in", "attn_norm.out", &w.wkv, "attn.wkv.out"},
      {"attn.wq_b.out", "attn.wq_b.in", "attn.qr", &w.wq_b, "attn.wq_b.out"},
      {"attn.out", "attn.wo_b.in", "attn.o_lora", &w.wo_b, "attn.out"},
      {"attn.indexer.wq_b.out", "attn.indexer.wq_b.in", "attn.qr",
       w.indexer ? &w.indexer->wq_b : nullptr, "indexer.wq_b.out"},
  };
  for (const Product& q : products) {
    if (leaf != q.leaf || q.w == nullptr || !known(at + q.from)) continue;
    if (q.w->dtype != DType::F8_E4M3) return;
    product(at + leaf, quantised(at + q.in, value(at + q.from)), *q.w, q.site);
  }
}

}  // namespace dsv4::cli
