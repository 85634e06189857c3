// SPDX-License-Identifier: Apache-2.0
#include "cli/kernel_stages.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

#include "cli/kernel_arrays.hpp"
#include "reference/error_bound.hpp"
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
    if (known("hc_head.x"))
      norm(tap, value("hc_head.x"), request_.checkpoint->vector("norm.weight"), "norm.out");
  } else if (Place* p = place_of(tap)) {
    stage_in(*p, tap.substr(p->prefix.size() + 1));
  }
  for (std::size_t i = before; i < results_.size(); ++i) covered_.insert(results_[i].tap);
}

void KernelStages::stage_in(Place& p, const std::string& leaf) {
  const std::string at = p.prefix + ".";
  const auto norm_of = [&](const std::string& from, const Row& w, std::string_view site) {
    if (known(at + from)) norm(at + leaf, value(at + from), w, site);
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
  if (leaf == "attn.o_lora") return grouped_output(p);
  if (leaf == "ffn.gate.weights") return gate(p);
  if (leaf == "ffn.routed") return routed_experts(p);
  if (leaf == "ffn.shared") return shared_expert(p);
  if (leaf == "e_proj.out") return mtp_projection(p, "e_proj");
  if (leaf == "h_proj.out") return mtp_projection(p, "h_proj");
  if (leaf == "enorm.out" || leaf == "hnorm.out") return mtp_norm(p, leaf);
  linears(p, leaf);
}

void KernelStages::norm(const std::string& tap, const Mat& x, const Row& weight,
                        std::string_view site) {
  StageJudge judge(call_, results_);
  judge.kernel(tap, matrix(kernels_.rms_norm(bf16s(x), static_cast<int>(x.rows()), floats(weight),
                                             static_cast<float>(config_.norm_eps)),
                           x.rows()));
  Tap to(judge);
  to.bind("s", x.rows()).bind("d", x.cols());
  const Mat y = reference::rms_norm(x, weight, config_.norm_eps);
  to(tap + "[s,d]", round_.bf16(site, y), [&] { return error::rms_norm(y, x.cols()); });
}

// The norms before an MTP block: of the next tokens' embeddings, and of each of the backbone's
// streams.
void KernelStages::mtp_norm(Place& p, const std::string& leaf) {
  const Row weight = request_.checkpoint->vector(
      fmt::format("{}.{}.weight", p.prefix, leaf.substr(0, leaf.find('.'))));
  const std::string tap = p.prefix + "." + leaf;
  const Index d = config_.dim;
  if (leaf == "hnorm.out") {
    const std::string from = fmt::format("layers.{}.hc_ffn.out", config_.n_layers - 1);
    if (!known(from)) return;
    // The last token has no next one where the trace ends. [s, n*d] and [s*n, d] are the same
    // bytes.
    const Index rows = value(tap).size() / d;
    return norm(tap, Eigen::Map<const Mat>(value(from).data(), rows, d), weight, "mtp.hnorm.out");
  }
  const Weight table = request_.checkpoint->matrix("embed");
  Mat x(value(tap).rows(), d);
  for (Index i = 0; i < x.rows(); ++i) {
    const auto next = static_cast<std::size_t>(start_ + 1 + i);
    dequantize(table, request_.ids[next], 1, 0, d, x.row(i).data(), d);
  }
  norm(tap, x, weight, "mtp.enorm.out");
}

}  // namespace dsv4::cli
