// SPDX-License-Identifier: Apache-2.0
#include "conformance/same_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/config.hpp"
#include "core/error.hpp"

namespace dsv4::conformance {

std::vector<std::string> config_differences(const ModelConfig& a, const ModelConfig& b) {
  std::vector<std::string> out;
  const auto check = [&](const char* field, const auto& x, const auto& y) {
    if (x != y) out.push_back(fmt::format("{}: {} against {}", field, x, y));
  };
#define DSV4_CHECK(field) check(#field, a.field, b.field)
  DSV4_CHECK(vocab_size);
  DSV4_CHECK(dim);
  DSV4_CHECK(n_layers);
  DSV4_CHECK(n_hash_layers);
  DSV4_CHECK(n_mtp_layers);
  DSV4_CHECK(n_heads);
  DSV4_CHECK(head_dim);
  DSV4_CHECK(rope_head_dim);
  DSV4_CHECK(q_lora_rank);
  DSV4_CHECK(o_groups);
  DSV4_CHECK(o_lora_rank);
  DSV4_CHECK(window_size);
  DSV4_CHECK(compress_ratios);
  DSV4_CHECK(rope_theta);
  DSV4_CHECK(compress_rope_theta);
  DSV4_CHECK(original_seq_len);
  DSV4_CHECK(rope_factor);
  DSV4_CHECK(beta_fast);
  DSV4_CHECK(beta_slow);
  DSV4_CHECK(index_n_heads);
  DSV4_CHECK(index_head_dim);
  DSV4_CHECK(index_topk);
  DSV4_CHECK(moe_inter_dim);
  DSV4_CHECK(n_routed_experts);
  DSV4_CHECK(n_activated_experts);
  DSV4_CHECK(route_scale);
  DSV4_CHECK(swiglu_limit);
  DSV4_CHECK(hc_mult);
  DSV4_CHECK(hc_sinkhorn_iters);
  DSV4_CHECK(hc_eps);
  DSV4_CHECK(norm_eps);
#undef DSV4_CHECK
  return out;
}

void require_same_model(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                        std::vector<std::string>& notes) {
  const std::string where = trace.path().string();
  const ParsedConfig theirs =
      parse_config(trace.attributes().config_json, where + ": attribute config_json");
  const auto differences = config_differences(theirs.config, checkpoint.config());
  if (!differences.empty()) {
    throw TraceError(fmt::format("{} is a trace of another model than {}: {}", where,
                                 checkpoint.path().string(), fmt::join(differences, "; ")),
                     "give the checkpoint that the trace was made from");
  }
  const std::string& fingerprint = trace.attributes().model_fingerprint;
  if (fingerprint.empty()) {
    notes.emplace_back(
        "the trace has no model_fingerprint: other weights of the same shape would not be noticed "
        "before they differ");
  } else if (const std::string ours = checkpoint.fingerprint(); ours != fingerprint) {
    throw TraceError(
        fmt::format("{} is a trace of other weights than {}: expected fingerprint {}, found {}",
                    where, checkpoint.path().string(), fingerprint, ours),
        "give the checkpoint that the trace was made from");
  }
}

}  // namespace dsv4::conformance
