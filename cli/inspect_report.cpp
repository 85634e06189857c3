// SPDX-License-Identifier: Apache-2.0
#include "cli/inspect_report.hpp"

#include <fmt/format.h>
#include <map>

#include <nlohmann/json.hpp>

#include "cli/plan.hpp"
#include "conformance/trace_table.hpp"

namespace dsv4::cli {
namespace {

using Json = nlohmann::ordered_json;

Json sizes(const ModelConfig& c) {
  return {{"vocab_size", c.vocab_size},
          {"dim", c.dim},
          {"n_layers", c.n_layers},
          {"n_hash_layers", c.n_hash_layers},
          {"n_mtp_layers", c.n_mtp_layers},
          {"n_heads", c.n_heads},
          {"head_dim", c.head_dim},
          {"rope_head_dim", c.rope_head_dim},
          {"q_lora_rank", c.q_lora_rank},
          {"o_groups", c.o_groups},
          {"o_lora_rank", c.o_lora_rank},
          {"window_size", c.window_size},
          {"rope_theta", c.rope_theta},
          {"compress_rope_theta", c.compress_rope_theta},
          {"original_seq_len", c.original_seq_len},
          {"rope_factor", c.rope_factor},
          {"index_n_heads", c.index_n_heads},
          {"index_head_dim", c.index_head_dim},
          {"index_topk", c.index_topk},
          {"moe_inter_dim", c.moe_inter_dim},
          {"n_routed_experts", c.n_routed_experts},
          {"n_shared_experts", c.n_shared_experts},
          {"n_activated_experts", c.n_activated_experts},
          {"route_scale", c.route_scale},
          {"swiglu_limit", c.swiglu_limit},
          {"hc_mult", c.hc_mult},
          {"hc_sinkhorn_iters", c.hc_sinkhorn_iters},
          {"hc_eps", c.hc_eps},
          {"norm_eps", c.norm_eps}};
}

Json layers(const ModelConfig& c) {
  Json rows = Json::array();
  for (std::int64_t b = 0; b < c.n_layers + c.n_mtp_layers; ++b) {
    const bool mtp = b >= c.n_layers;
    const std::int64_t ratio = c.ratio(b);
    rows.push_back(
        {{"block", mtp ? fmt::format("mtp.{}", b - c.n_layers) : fmt::format("layers.{}", b)},
         {"type", layer_type(c, b)},
         {"ratio", ratio},
         {"rope_base", ratio == 0 ? c.rope_theta : c.compress_rope_theta},
         {"yarn", ratio != 0 && c.original_seq_len > 0},
         {"routing", !mtp && c.hash_routed(b) ? "hash" : "scored"}});
  }
  return rows;
}

Json storage(const Checkpoint& model) {
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> by_dtype;
  for (const auto& [name, tensor] : model.tensors()) {
    auto& [tensors, bytes] = by_dtype[std::string(dsv4::name(tensor.dtype))];
    ++tensors;
    bytes += tensor.bytes.size();
  }
  Json rows = Json::array();
  for (const auto& [dtype, sum] : by_dtype)
    rows.push_back({{"dtype", dtype}, {"tensors", sum.first}, {"bytes", sum.second}});
  return rows;
}

Json costs(const Checkpoint& model, std::int64_t context) {
  Json rows = Json::array();
  for (const BlockCost& b : plan(model, context)) {
    rows.push_back({{"block", b.name},
                    {"type", b.type},
                    {"weight_bytes", b.weight_bytes},
                    {"touched_bytes_per_token", b.touched_bytes},
                    {"cache_bytes", b.cache_bytes},
                    {"flops_per_token", b.flops}});
  }
  return rows;
}

Json describe(const golden::DatasetInfo& d) {
  Json j{{"name", d.name},
         {"shape", d.shape},
         {"stored", fmt::format("{}{}", d.integer ? "int" : "float", d.bits)}};
  if (!d.dtype.empty()) j["dtype"] = d.dtype;
  if (!d.axes.empty()) j["axes"] = d.axes;
  if (d.rows) j["rows"] = *d.rows;
  return j;
}

Json attributes(const golden::TraceAttributes& a) {
  Json j = Json::object();
  const std::pair<const char*, const std::string*> texts[] = {
      {"rounding", &a.rounding},
      {"producer", &a.producer},
      {"producer_revision", &a.producer_revision},
      {"official_revision", &a.official_revision},
      {"model_fingerprint", &a.model_fingerprint},
      {"arith", &a.arith},
      {"flags", &a.flags}};
  for (const auto& [key, text] : texts) {
    if (!text->empty()) j[key] = *text;
  }
  if (a.seed) j["seed"] = *a.seed;
  return j;
}

Json calls(const golden::TraceFile& trace, const ModelConfig& config, bool list_datasets) {
  const conformance::TraceTable table(trace, config);
  Json rows = Json::array();
  for (std::size_t c = 0; c < trace.calls().size(); ++c) {
    const golden::CallInfo& call = trace.calls()[c];
    std::int64_t values = 0;
    Json datasets = Json::array();
    for (const golden::DatasetInfo& d : call.datasets) {
      values += d.size();
      if (list_datasets) datasets.push_back(describe(d));
    }
    Json j{{"name", call.name},
           {"start", table.calls()[c].start},
           {"tokens", table.calls()[c].end - table.calls()[c].start},
           {"n_datasets", call.datasets.size()},
           {"values", values}};
    if (list_datasets) j["datasets"] = datasets;
    rows.push_back(j);
  }
  return rows;
}

}  // namespace

Json describe(const Checkpoint& model, const InspectDetail& detail) {
  Json j{{"kind", "model"},
         {"path", model.path().string()},
         {"tensors", model.tensor_count()},
         {"bytes", model.total_bytes()},
         {"config", sizes(model.config())},
         {"layers", layers(model.config())},
         {"storage", storage(model)},
         {"warnings", model.warnings()}};
  if (detail.fingerprint) j["fingerprint"] = model.fingerprint();
  if (detail.plan)
    j["plan"] = {{"context", detail.context}, {"blocks", costs(model, detail.context)}};
  return j;
}

Json describe(const golden::TraceFile& trace, const InspectDetail& detail) {
  const golden::TraceAttributes& a = trace.attributes();
  const ModelConfig config = parse_config(a.config_json, trace.path().string()).config;
  return {{"kind", "trace"},
          {"path", trace.path().string()},
          {"attributes", attributes(a)},
          {"config", sizes(config)},
          {"input_ids", trace.input_ids()},
          {"calls", calls(trace, config, detail.datasets)}};
}

}  // namespace dsv4::cli
