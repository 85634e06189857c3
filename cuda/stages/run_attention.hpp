// SPDX-License-Identifier: Apache-2.0
// The stages whose kernels know c and r_d, on any device, and how rows of the caches are read back.
#pragma once

#include <cmath>
#include <stdexcept>

#include "core/dtype.hpp"
#include "cuda/stages/launchers.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::stages {

// What a row of the attention cache stands for.
template <int kC, int kRope>
void read_kv_row(const std::uint8_t* row, float* out) {
  using Row = kernels::KvRow<kC, kRope>;
  for (int i = 0; i < Row::plain; ++i) {
    out[i] = decode_e4m3(row[i]) * decode_e8m0(row[Row::scales_at + i / 64]);
  }
  for (int i = 0; i < kRope; ++i) {
    const std::uint8_t* code = row + Row::rope_at + 2 * i;
    out[Row::plain + i] = decode_bf16(static_cast<std::uint16_t>(code[0] | code[1] << 8));
  }
}

template <int kJ>
void read_index_row(const std::uint8_t* row, float* out) {
  for (int i = 0; i < kJ; ++i) {
    const int code = row[i / 2] >> (i % 2 * 4) & 15;
    out[i] = decode_e2m1(static_cast<std::uint8_t>(code)) *
             decode_e8m0(row[kernels::IndexRow<kJ>::scales_at + i / 32]);
  }
}

template <int kC, int kRope, class Gpu>
AttentionOutput attention_of(Gpu& gpu, const AttentionInput& in) {
  constexpr int kBytes = kernels::KvRow<kC, kRope>::bytes;
  const int s = in.tokens, first = in.start;
  kernels::AttentionInputArgs a{};
  a.q = gpu.in("q", in.q);
  a.kv = gpu.in("kv", in.kv);
  a.kv_weight = gpu.constant("kv weight", in.kv_weight);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.q_out = gpu.out_bf16("q out", in.q.size());
  a.window = s;  // a ring that holds the whole call
  a.cache = gpu.out_bytes("cache", size(s, kBytes));
  a.heads = in.heads;
  a.tokens = s;
  a.start = first;
  a.eps = in.eps;
  a.q_normed = gpu.out_bf16("q normed", in.q.size());
  a.kv_normed = gpu.out_bf16("kv normed", in.kv.size());
  a.kv_roped = gpu.out_bf16("kv roped", in.kv.size());
  launch_attention_inputs<kC, kRope>(gpu, a);
  AttentionOutput out{gpu.take(a.q_normed, in.q.size()), gpu.take(a.q_out, in.q.size()),
                      gpu.take(a.kv_normed, in.kv.size()), gpu.take(a.kv_roped, in.kv.size()),
                      Floats(in.kv.size())};
  const Bytes cache = gpu.take(a.cache, size(s, kBytes));
  for (int t = 0; t < s; ++t) {
    read_kv_row<kC, kRope>(&cache[size((first + t) % s, kBytes)], &out.kv[size(t, kC)]);
  }
  return out;
}

template <int kJ, int kRope, class Gpu>
IndexQueryOutput index_queries_of(Gpu& gpu, const IndexQueryInput& in) {
  constexpr int kBytes = kernels::IndexRow<kJ>::bytes;
  const int rows = in.tokens * in.heads;
  kernels::IndexQueryArgs a{};
  a.q = gpu.in("q", in.q);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.out = gpu.out_bytes("out", size(rows, kBytes));
  a.heads = in.heads;
  a.start = in.start;
  a.hadamard_scale = 1.0F / std::sqrt(static_cast<float>(kJ));
  a.roped = gpu.out_bf16("roped", in.q.size());
  a.rotated = gpu.out_bf16("rotated", in.q.size());
  launch_index_queries<kJ, kRope>(gpu, a, in.tokens);
  IndexQueryOutput out{gpu.take(a.roped, in.q.size()), gpu.take(a.rotated, in.q.size()),
                       Floats(in.q.size())};
  const Bytes read = gpu.take(a.out, size(rows, kBytes));
  for (int r = 0; r < rows; ++r) read_index_row<kJ>(&read[size(r, kBytes)], &out.q[size(r, kJ)]);
  return out;
}

template <bool kIndexing, int kC, int kRope>
constexpr int entry_bytes() {
  if constexpr (kIndexing) {
    return kernels::IndexRow<kC>::bytes;
  } else {
    return kernels::KvRow<kC, kRope>::bytes;
  }
}

template <bool kOverlap, bool kIndexing, int kC, int kRope, class Gpu>
CompressorOutput compress_of(Gpu& gpu, const CompressorInput& in) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
  constexpr int kBytes = entry_bytes<kIndexing, kC, kRope>();
  kernels::CompressorArgs a{};
  a.ratio = in.ratio;
  a.start = in.start;
  a.tokens = in.tokens;
  const int entries = kernels::completed_entries(a), state = kernels::state_rows(a, kOverlap);
  const std::size_t values = size(entries, kC);
  a.kv = gpu.constant("kv", in.kv);
  a.score = gpu.constant("score", in.score);
  a.ape = gpu.constant("ape", in.ape);
  a.kv_state = gpu.constant("kv state", in.kv_state);
  a.score_state = gpu.constant("score state", in.score_state);
  a.kv_state_out = gpu.out_floats("kv state out", size(state, kW));
  a.score_state_out = gpu.out_floats("score state out", size(state, kW));
  a.norm = gpu.constant("norm", in.norm);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.entries = gpu.out_bytes("entries", size(entries, kBytes));
  a.eps = in.eps;
  a.hadamard_scale = 1.0F / std::sqrt(static_cast<float>(kC));
  a.pooled = gpu.out_floats("pooled", values);
  a.normed = gpu.out_bf16("normed", values);
  a.roped = gpu.out_bf16("roped", values);
  a.rotated = kIndexing ? gpu.out_bf16("rotated", values) : nullptr;
  launch_compress<kOverlap, kIndexing, kC, kRope>(gpu, a);
  CompressorOutput out{gpu.take(a.pooled, values),
                       Floats(values),
                       gpu.take(a.kv_state_out, size(state, kW)),
                       gpu.take(a.score_state_out, size(state, kW)),
                       gpu.take(a.normed, values),
                       gpu.take(a.roped, values),
                       gpu.take(a.rotated, values)};
  const Bytes rows = gpu.take(a.entries, size(entries, kBytes));
  for (int e = 0; e < entries; ++e) {
    const std::uint8_t* row = &rows[size(e, kBytes)];
    if constexpr (kIndexing) {
      read_index_row<kC>(row, &out.entry[size(e, kC)]);
    } else {
      read_kv_row<kC, kRope>(row, &out.entry[size(e, kC)]);
    }
  }
  return out;
}

template <int kC, int kRope, class Gpu>
CompressorOutput compress_entries(Gpu& gpu, const CompressorInput& in) {
  return in.ratio == 4 ? compress_of<true, false, kC, kRope>(gpu, in)
                       : compress_of<false, false, kC, kRope>(gpu, in);
}

[[noreturn]] inline void unknown_size() {
  throw std::logic_error("a size that is not instantiated");
}

template <class Gpu>
AttentionOutput attention_inputs(Gpu& gpu, const AttentionInput& in) {
  if (in.c == 160 && in.rope == 32) return attention_of<160, 32>(gpu, in);
  if (in.c == 128 && in.rope == 64) return attention_of<128, 64>(gpu, in);
  if (in.c == 512 && in.rope == 64) return attention_of<512, 64>(gpu, in);
  unknown_size();
}

template <class Gpu>
IndexQueryOutput index_queries(Gpu& gpu, const IndexQueryInput& in) {
  if (in.j == 64 && in.rope == 32) return index_queries_of<64, 32>(gpu, in);
  if (in.j == 64 && in.rope == 64) return index_queries_of<64, 64>(gpu, in);
  if (in.j == 128 && in.rope == 64) return index_queries_of<128, 64>(gpu, in);
  unknown_size();
}

template <class Gpu>
CompressorOutput compress(Gpu& gpu, const CompressorInput& in) {
  if (in.indexing) {
    if (in.c == 64 && in.rope == 32) return compress_of<true, true, 64, 32>(gpu, in);
    if (in.c == 64 && in.rope == 64) return compress_of<true, true, 64, 64>(gpu, in);
    if (in.c == 128 && in.rope == 64) return compress_of<true, true, 128, 64>(gpu, in);
    unknown_size();
  }
  if (in.c == 160 && in.rope == 32) return compress_entries<160, 32>(gpu, in);
  if (in.c == 128 && in.rope == 64) return compress_entries<128, 64>(gpu, in);
  if (in.c == 512 && in.rope == 64) return compress_entries<512, 64>(gpu, in);
  unknown_size();
}

}  // namespace dsv4::stages
