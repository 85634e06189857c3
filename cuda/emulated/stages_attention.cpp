// SPDX-License-Identifier: Apache-2.0
// The stages whose kernels know c and r_d, and how rows of the caches are read back.
#include <cmath>
#include <stdexcept>

#include "core/dtype.hpp"
#include "cuda/emulated/launch.hpp"
#include "cuda/emulated/stages.hpp"
#include "cuda/kernels/compressor.hpp"

namespace dsv4::emulated {
namespace {

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

template <int kC, int kRope>
AttentionOutput attention_of(const AttentionInput& in, const Options& options) {
  constexpr int kBytes = kernels::KvRow<kC, kRope>::bytes;
  Gpu gpu(options);
  const int s = in.tokens, first = in.start;
  kernels::AttentionInputArgs a{};
  a.q = gpu.in("q", in.q);
  a.kv = gpu.in("kv", in.kv);
  a.kv_weight = gpu.constant("kv weight", in.kv_weight);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.q_out = gpu.out_bf16("q out", in.q.size());
  a.window = s;  // a ring that holds the whole call
  a.cache = gpu.out<std::uint8_t>("cache", size(s, kBytes));
  a.heads = in.heads;
  a.tokens = s;
  a.start = first;
  a.eps = in.eps;
  a.q_normed = gpu.out_bf16("q normed", in.q.size());
  a.kv_normed = gpu.out_bf16("kv normed", in.kv.size());
  a.kv_roped = gpu.out_bf16("kv roped", in.kv.size());
  gpu.launch({{count(s), blocks(in.heads + 1, 8)}, 256},
             [&] { kernels::attention_inputs<kC, kRope>(a); });
  AttentionOutput out{take(a.q_normed, in.q.size()), take(a.q_out, in.q.size()),
                      take(a.kv_normed, in.kv.size()), take(a.kv_roped, in.kv.size()),
                      Floats(in.kv.size())};
  for (int t = 0; t < s; ++t) {
    read_kv_row<kC, kRope>(a.cache + size((first + t) % s, kBytes), &out.kv[size(t, kC)]);
  }
  return out;
}

template <int kJ, int kRope>
IndexQueryOutput index_queries_of(const IndexQueryInput& in, const Options& options) {
  constexpr int kBytes = kernels::IndexRow<kJ>::bytes;
  Gpu gpu(options);
  const int rows = in.tokens * in.heads;
  kernels::IndexQueryArgs a{};
  a.q = gpu.in("q", in.q);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.out = gpu.out<std::uint8_t>("out", size(rows, kBytes));
  a.heads = in.heads;
  a.start = in.start;
  a.hadamard_scale = 1.0F / std::sqrt(static_cast<float>(kJ));
  a.roped = gpu.out_bf16("roped", in.q.size());
  a.rotated = gpu.out_bf16("rotated", in.q.size());
  gpu.launch({{count(in.tokens), blocks(in.heads, 8)}, 256},
             [&] { kernels::index_queries<kJ, kRope>(a); });
  IndexQueryOutput out{take(a.roped, in.q.size()), take(a.rotated, in.q.size()),
                       Floats(in.q.size())};
  for (int r = 0; r < rows; ++r) read_index_row<kJ>(a.out + size(r, kBytes), &out.q[size(r, kJ)]);
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

template <bool kOverlap, bool kIndexing, int kC, int kRope>
CompressorOutput compress_of(const CompressorInput& in, const Options& options) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
  constexpr int kBytes = entry_bytes<kIndexing, kC, kRope>();
  Gpu gpu(options);
  const int entries = (in.start + in.tokens) / in.ratio - in.start / in.ratio;
  const std::size_t values = size(entries, kC);
  const int state = kOverlap ? 2 * in.ratio : in.ratio;
  kernels::CompressorArgs a{};
  a.kv = gpu.constant("kv", in.kv);
  a.score = gpu.constant("score", in.score);
  a.ape = gpu.constant("ape", in.ape);
  a.kv_state = gpu.constant("kv state", in.kv_state);
  a.score_state = gpu.constant("score state", in.score_state);
  a.kv_state_out = gpu.out<float>("kv state out", size(state, kW));
  a.score_state_out = gpu.out<float>("score state out", size(state, kW));
  a.norm = gpu.constant("norm", in.norm);
  a.frequencies = gpu.constant("frequencies", in.frequencies);
  a.entries = gpu.out<std::uint8_t>("entries", size(entries, kBytes));
  a.ratio = in.ratio;
  a.start = in.start;
  a.tokens = in.tokens;
  a.eps = in.eps;
  a.hadamard_scale = 1.0F / std::sqrt(static_cast<float>(kC));
  a.pooled = gpu.out<float>("pooled", values);
  a.normed = gpu.out_bf16("normed", values);
  a.roped = gpu.out_bf16("roped", values);
  a.rotated = kIndexing ? gpu.out_bf16("rotated", values) : nullptr;
  gpu.launch({{count(entries)}, 128},
             [&] { kernels::compress<kOverlap, kIndexing, kC, kRope>(a); });
  gpu.launch({{count(state)}, 128}, [&] { kernels::compressor_state<kOverlap, kC>(a); });
  CompressorOutput out{take(a.pooled, values),
                       Floats(values),
                       take(a.kv_state_out, size(state, kW)),
                       take(a.score_state_out, size(state, kW)),
                       take(a.normed, values),
                       take(a.roped, values),
                       take(a.rotated, values)};
  for (int e = 0; e < entries; ++e) {
    const std::uint8_t* row = a.entries + size(e, kBytes);
    if constexpr (kIndexing) {
      read_index_row<kC>(row, &out.entry[size(e, kC)]);
    } else {
      read_kv_row<kC, kRope>(row, &out.entry[size(e, kC)]);
    }
  }
  return out;
}

template <int kC, int kRope>
CompressorOutput compress_entries(const CompressorInput& in, const Options& options) {
  return in.ratio == 4 ? compress_of<true, false, kC, kRope>(in, options)
                       : compress_of<false, false, kC, kRope>(in, options);
}

[[noreturn]] void unknown_size() { throw std::logic_error("a size that is not instantiated"); }

}  // namespace

AttentionOutput attention_inputs(const AttentionInput& in, const Options& options) {
  if (in.c == 160 && in.rope == 32) return attention_of<160, 32>(in, options);
  if (in.c == 128 && in.rope == 64) return attention_of<128, 64>(in, options);
  if (in.c == 512 && in.rope == 64) return attention_of<512, 64>(in, options);
  unknown_size();
}

IndexQueryOutput index_queries(const IndexQueryInput& in, const Options& options) {
  if (in.j == 64 && in.rope == 32) return index_queries_of<64, 32>(in, options);
  if (in.j == 64 && in.rope == 64) return index_queries_of<64, 64>(in, options);
  if (in.j == 128 && in.rope == 64) return index_queries_of<128, 64>(in, options);
  unknown_size();
}

CompressorOutput compress(const CompressorInput& in, const Options& options) {
  if (in.indexing) {
    if (in.c == 64 && in.rope == 32) return compress_of<true, true, 64, 32>(in, options);
    if (in.c == 64 && in.rope == 64) return compress_of<true, true, 64, 64>(in, options);
    if (in.c == 128 && in.rope == 64) return compress_of<true, true, 128, 64>(in, options);
    unknown_size();
  }
  if (in.c == 160 && in.rope == 32) return compress_entries<160, 32>(in, options);
  if (in.c == 128 && in.rope == 64) return compress_entries<128, 64>(in, options);
  if (in.c == 512 && in.rope == 64) return compress_entries<512, 64>(in, options);
  unknown_size();
}

}  // namespace dsv4::emulated
