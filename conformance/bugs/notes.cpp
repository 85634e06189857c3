// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/notes.hpp"

#include <fmt/format.h>

namespace dsv4::bugs {

std::optional<std::string> missing_draft(conformance::TraceTable& table,
                                         const ModelConfig& config) {
  const bool ids = !table.calls().empty() && table.calls().back().end < table.id_count();
  if (config.n_mtp_layers == 0 || !ids || table.exposes_prefix("mtp.")) return {};
  for (std::int64_t l = 0; l < config.n_layers; ++l)
    if (!table.exposes_prefix(fmt::format("layers.{}.attn.", l))) return {};
  if (!table.exposes("logits")) return {};
  return "the checkpoint has a draft block and the trace has the id that it reads, but no mtp.* "
         "tap: if the port should run it, its tensors may be dropped on loading (M84)";
}

}  // namespace dsv4::bugs
