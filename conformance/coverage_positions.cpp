// SPDX-License-Identifier: Apache-2.0
// What the calls of traces and the positions of recorded rows show.
#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <set>

#include "conformance/coverage_rules.hpp"

namespace dsv4::conformance {
namespace {

// A recorded row of an attention output: only there do windows, entries and rotations become
// visible.
struct Query {
  const TraceView* trace = nullptr;
  std::int64_t block = 0, position = 0, ratio = 0;

  std::int64_t window() const { return std::min(position + 1, trace->config.window_size); }
  std::int64_t visible_entries() const { return ratio > 0 ? (position + 1) / ratio : 0; }
  std::int64_t chosen_entries() const {
    const bool ranked = ModelConfig::overlaps(ratio);
    return ranked ? std::min(visible_entries(), trace->config.index_topk) : visible_entries();
  }
};

// What a row of any of these stages depends on includes the attention of its position.
bool shows_attention(std::string_view leaf) {
  constexpr std::string_view kStages[] = {"attn.o",   "attn.o_derotated", "attn.o_lora",
                                          "attn.out", "hc_attn.out",      "hc_ffn.out"};
  return std::ranges::find(kStages, leaf) != std::end(kStages);
}

std::string_view leaf_of(const TapMatch& m) {
  std::string_view name = m.info->name;
  for (int i = 0; i < 2 && m.index >= 0; ++i) name.remove_prefix(name.find('.') + 1);
  return name;
}

template <class Wanted>
Finding first_query(const Evidence& e, std::string_view none, Wanted wanted) {
  for (const TraceView& trace : e.traces) {
    for (const Slot& slot : trace.slots) {
      const auto m = find_tap(slot.info->name, static_cast<int>(trace.config.n_layers));
      if (!m || m->block < 0 || !shows_attention(leaf_of(*m))) continue;
      for (const std::int64_t position : slot.keys) {
        const Query q{&trace, m->block, position, trace.config.ratio(m->block)};
        if (!wanted(q)) continue;
        return found(true,
                     fmt::format("{}: {} at position {}", trace.file->path().filename().string(),
                                 slot.info->name, position));
      }
    }
  }
  return found(false, e.traces.empty() ? "no trace" : std::string(none));
}

Finding yarn(const Evidence& e) {
  return first_query(
      e, fmt::format("no compressed layer beyond position {}", e.config->original_seq_len),
      [](const Query& q) {
        const std::int64_t original = q.trace->config.original_seq_len;
        return q.ratio > 0 && original > 0 && q.position >= original &&
               q.trace->config.rope_factor != 1;
      });
}

Finding prompt_lengths(const Evidence& e) {
  std::set<std::int64_t> missing{3, 4, 5, 127, 128, 129, 257};
  for (const TraceView& trace : e.traces) {
    if (!trace.calls.empty() && trace.calls[0].start == 0) missing.erase(trace.calls[0].end);
  }
  return found(missing.empty(),
               missing.empty() ? "all" : fmt::format("missing: {}", fmt::join(missing, ", ")));
}

// A call of `one` or several tokens, after the first, that satisfies `wanted(call)`.
template <class Wanted>
Finding first_call(const Evidence& e, Wanted wanted) {
  for (const TraceView& trace : e.traces) {
    for (const Call& call : trace.calls) {
      if (call.start > 0 && wanted(call)) {
        return found(true,
                     fmt::format("{}: positions {} … {}", trace.file->path().filename().string(),
                                 call.start, call.end - 1));
      }
    }
  }
  return found(false, e.traces.empty() ? "no trace" : "no such call");
}

Finding decode_across(const Evidence& e, std::int64_t ratio) {
  return first_call(e,
                    [ratio](const Call& c) { return c.end - c.start == 1 && c.end % ratio == 0; });
}

Finding roundings(const Evidence& e) {
  std::set<std::string> seen;
  for (const TraceView& trace : e.traces) seen.insert(trace.file->attributes().rounding);
  return found(seen.contains("exact") && seen.contains("official"),
               seen.empty() ? "no trace" : fmt::format("{}", fmt::join(seen, ", ")));
}

Finding mtp(const Evidence& e) {
  for (const TraceView& trace : e.traces) {
    for (const Slot& slot : trace.slots) {
      if (slot.info->name.starts_with("mtp."))
        return found(true, trace.file->path().filename().string());
    }
  }
  return found(false, "no trace has taps of an MTP block");
}

// Tokens of a trace that a hash layer routes to an odd expert above 256.
Finding hash_tokens(const Evidence& e) {
  if (!e.model) return {Reached::unknown, "needs the checkpoint"};
  for (std::int64_t layer = 0; layer < e.config->n_hash_layers; ++layer) {
    const std::string name = fmt::format("layers.{}.ffn.gate.tid2eid", layer);
    if (!e.model->has(name)) continue;
    const std::vector<std::int64_t> table = expert_table(e.model->tensor(name));
    const std::int64_t active = e.config->n_activated_experts;
    for (const TraceView& trace : e.traces) {
      for (const std::int64_t id : trace.file->input_ids()) {
        for (std::int64_t k = 0; id >= 0 && (id + 1) * active <= std::ssize(table) && k < active;
             ++k) {
          const std::int64_t expert = table[static_cast<std::size_t>(id * active + k)];
          if (bf16_cannot_hold(expert)) {
            return found(true, fmt::format("layer {}: id {} to expert {}", layer, id, expert));
          }
        }
      }
    }
  }
  return found(false, "no token of a trace is sent to an odd expert above 256 by a hash layer");
}

}  // namespace

std::vector<Rule> position_rules() {
  using E = const Evidence&;
  return {
      {"softmax-128", "a query has more than 128 softmax entries",
       [](E e) {
         return first_query(e, "no such row",
                            [](const Query& q) { return q.window() + q.chosen_entries() > 128; });
       }},
      {"softmax-64",
       "a query has more than 64 entries: several blocks of the official online softmax",
       [](E e) {
         return first_query(e, "no such row",
                            [](const Query& q) { return q.window() + q.chosen_entries() > 64; });
       }},
      {"hca-3", "a query of an HCA layer sees at least three entries",
       [](E e) {
         return first_query(e, "no such row",
                            [](const Query& q) { return q.ratio > 4 && q.visible_entries() >= 3; });
       }},
      {"topk-truncation", "a query of a CSA layer sees more entries than it may choose",
       [](E e) {
         return first_query(e, "no such row", [](const Query& q) {
           return q.ratio == 4 && q.visible_entries() > q.chosen_entries();
         });
       }},
      {"topk-short", "a query of a CSA layer sees fewer entries than it may choose",
       [](E e) {
         return first_query(e, "no such row", [](const Query& q) {
           return q.ratio == 4 && q.visible_entries() < q.trace->config.index_topk;
         });
       }},
      {"open-group", "a query of a CSA layer stands inside a group that is not complete",
       [](E e) {
         return first_query(e, "no such row", [](const Query& q) {
           return q.ratio == 4 && (q.position + 1) % 4 != 0;
         });
       }},
      {"window-wrap", "a query stands beyond the window",
       [](E e) {
         return first_query(e, "no such row", [](const Query& q) {
           return q.position >= q.trace->config.window_size;
         });
       }},
      {"window-layer-far", "a query of a window-only layer stands beyond the window",
       [](E e) {
         return first_query(e, "no such row", [](const Query& q) {
           return q.ratio == 0 && q.position >= q.trace->config.window_size;
         });
       }},
      {"yarn", "positions of compressed layers cross original_max_position_embeddings", yarn},
      {"prompt-lengths", "prompts of 3, 4, 5, 127, 128, 129 and 257 tokens", prompt_lengths},
      {"decode-4", "a decoded token completes a group of 4",
       [](E e) { return decode_across(e, 4); }},
      {"decode-128", "a decoded token completes a group of 128",
       [](E e) { return decode_across(e, 128); }},
      {"chunks", "a later call has several tokens (the official code has no such call)",
       [](E e) { return first_call(e, [](const Call& c) { return c.end - c.start > 1; }); }},
      {"roundings", "traces with activation quantisation and without it", roundings},
      {"mtp", "an MTP block is recorded", mtp},
      {"hash-tokens-256", "a hash layer sends a token to an expert number that BF16 cannot hold",
       hash_tokens},
  };
}

}  // namespace dsv4::conformance
