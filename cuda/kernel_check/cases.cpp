// SPDX-License-Identifier: Apache-2.0
#include "cuda/kernel_check/cases.hpp"

#include <cmath>
#include <fmt/format.h>

#include "cuda/kernel_check/inputs.hpp"

namespace dsv4::kernel_check {
namespace {

using namespace stages;

// All outputs of a stage, one after the other.
class Collected {
 public:
  template <class T>
  Collected& operator<<(const std::vector<T>& values) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(values.data());
    bytes_.insert(bytes_.end(), begin, begin + values.size() * sizeof(T));
    return *this;
  }
  operator Bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

std::size_t size(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

KernelCase quantizer(const char* name, Quantizer which, int rows, int columns, bool edge) {
  return {fmt::format("quantize/{}{}", name, edge ? "/edges" : ""), [=](Stages& s) -> Bytes {
            const Bf16s x = edge ? edges(size(rows, columns)) : Inputs(1).bf16(size(rows, columns));
            const Quantized q = s.quantize(which, x, rows, columns);
            return Collected() << q.codes << q.scales;
          }};
}

KernelCase norm(int rows, int columns) {
  return {fmt::format("rms_norm/{}", columns), [=](Stages& s) -> Bytes {
            Inputs in(2);
            const Bf16s x = in.bf16(size(rows, columns));
            return Collected() << s.rms_norm(x, rows, in.floats(size(columns, 1), 0.5F, 2), 1e-6F);
          }};
}

KernelCase hadamard(int rows, int n) {
  return {fmt::format("hadamard/{}", n), [=](Stages& s) -> Bytes {
            return Collected() << s.hadamard(Inputs(3).bf16(size(rows, n)), rows, n);
          }};
}

KernelCase mhc(int n, int d, int tokens, int iterations, bool post, bool pre) {
  const char* halves = post && pre ? "post_pre" : post ? "post" : "pre";
  return {fmt::format("mhc/{}/n{}_d{}", halves, n, d), [=](Stages& s) -> Bytes {
            const MhcOutput o = s.mhc(mhc_input(4, n, d, tokens, iterations, post, pre));
            return Collected() << o.out << o.x << o.mixes << o.pre << o.post << o.comb;
          }};
}

KernelCase attention(int c, int rope, int heads, int tokens, int start) {
  return {fmt::format("attention_inputs/c{}_at{}", c, start), [=](Stages& s) -> Bytes {
            Inputs draw(5);
            AttentionInput in{c,
                              rope,
                              heads,
                              tokens,
                              start,
                              1e-6F,
                              draw.bf16(size(tokens, heads, c)),
                              draw.bf16(size(tokens, c)),
                              draw.floats(size(c, 1), 0.5F, 2),
                              frequencies(rope)};
            const AttentionOutput o = s.attention_inputs(in);
            return Collected() << o.q_normed << o.q << o.kv_normed << o.kv_roped << o.kv;
          }};
}

KernelCase index_queries(int j, int rope, int heads, int tokens, int start) {
  return {fmt::format("index_queries/j{}_at{}", j, start), [=](Stages& s) -> Bytes {
            IndexQueryInput in{j,
                               rope,
                               heads,
                               tokens,
                               start,
                               Inputs(6).bf16(size(tokens, heads, j)),
                               frequencies(rope)};
            const IndexQueryOutput o = s.index_queries(in);
            return Collected() << o.roped << o.rotated << o.q;
          }};
}

KernelCase compressor(int c, int rope, int ratio, bool indexing, int start, int tokens) {
  const char* kind = indexing ? "index" : ratio == 4 ? "csa" : "hca";
  return {fmt::format("compress/{}_c{}_{}+{}", kind, c, start, tokens), [=](Stages& s) -> Bytes {
            CompressorInput in = compressor_input(7, c, rope, ratio, start, tokens, 3);
            in.indexing = indexing;
            const CompressorOutput o = s.compress(in);
            return Collected() << o.pooled << o.normed << o.roped << o.rotated << o.entry
                               << o.kv_state << o.score_state;
          }};
}

KernelCase gate(int tokens, int experts, int k, bool hash, bool ties) {
  return {fmt::format("gate/{}{}{}", experts, hash ? "/hash" : "", ties ? "/ties" : ""),
          [=](Stages& s) -> Bytes {
            Inputs draw(8);
            GateInput in;
            in.tokens = tokens;
            in.experts = experts;
            in.k = k;
            in.route_scale = 1.5F;
            in.logits = draw.floats(size(tokens, experts), -30, 30);
            if (ties) {
              for (float& l : in.logits) l = std::round(l / 10);
            }
            if (hash) {
              in.tid2eid = draw.integers(size(50, k), experts);
              in.ids = draw.integers(size(tokens, 1), 50);
            } else {
              in.bias =
                  ties ? Floats(size(experts, 1), 0.0F) : draw.floats(size(experts, 1), -1, 1);
            }
            const GateOutput o = s.gate(in);
            return Collected() << o.scores << o.indices << o.weights;
          }};
}

KernelCase linear(int m, int n, int k, bool fp4) {
  return {fmt::format("linear/{}_m{}_n{}_k{}", fp4 ? "e2m1" : "e4m3", m, n, k),
          [=](Stages& s) -> Bytes {
            Inputs draw(9);
            const Bf16s x = draw.bf16(size(m, k));
            const Bytes codes = fp4 ? draw.bytes(size(n, k) / 2) : draw.e4m3(size(n, k));
            const Bytes scales =
                draw.scales(fp4 ? size(n, k / 32) : size((n + 127) / 128, (k + 127) / 128));
            return Collected() << s.linear(x, m, {codes.data(), scales.data(), n, k, fp4});
          }};
}

std::vector<KernelCase> all() {
  std::vector<KernelCase> c;
  for (const bool edge : {false, true}) {
    c.push_back(quantizer("fp8_128", Quantizer::fp8_128, 5, 512, edge));
    c.push_back(quantizer("fp8_64", Quantizer::fp8_64, 5, 448, edge));
    c.push_back(quantizer("fp4_32", Quantizer::fp4_32, 9, 128, edge));
  }
  for (const int columns : {2, 126, 256, 1536, 7168}) c.push_back(norm(3, columns));
  for (const int n : {64, 128}) c.push_back(hadamard(13, n));
  c.push_back(mhc(3, 64, 3, 12, true, true));
  c.push_back(mhc(6, 64, 2, 20, true, true));
  c.push_back(mhc(4, 160, 3, 0, true, false));
  c.push_back(mhc(4, 160, 3, 3, false, true));  // not converged: each round shows
  c.push_back(mhc(4, 64, 40, 20, true, true));  // more groups of tokens than clusters
  c.push_back(mhc(4, 4096, 1, 20, true, true));
  c.back().slow = true;
  for (const int start : {0, 131071}) {
    c.push_back(attention(160, 32, 3, 3, start));
    c.push_back(attention(512, 64, 9, 2, start));
    c.push_back(index_queries(64, 32, 3, 3, start));
    c.push_back(index_queries(128, 64, 9, 2, start));
  }
  // Prefill with a rest, a resumed chunk, decode that completes a group, decode that does not.
  for (const auto& [start, tokens] :
       {std::pair(0, 11), std::pair(6, 7), std::pair(7, 1), std::pair(5, 1)}) {
    c.push_back(compressor(160, 32, 4, false, start, tokens));
    c.push_back(compressor(128, 64, 4, true, start, tokens));
  }
  c.push_back(compressor(512, 64, 4, false, 3, 6));
  c.push_back(compressor(512, 64, 128, false, 0, 130));
  c.push_back(compressor(160, 32, 128, false, 127, 1));
  c.push_back(gate(5, 8, 3, false, false));
  c.push_back(gate(5, 256, 6, false, false));
  c.push_back(gate(5, 384, 6, false, true));
  c.push_back(gate(5, 256, 6, true, false));
  for (const bool fp4 : {false, true}) {
    c.push_back(linear(1, 8, 64, fp4));
    c.push_back(linear(4, 40, 192, fp4));
    c.push_back(linear(16, 64, 256, fp4));
    c.push_back(linear(19, 64, 384, fp4));
  }
  return c;
}

}  // namespace

const std::vector<KernelCase>& cases() {
  static const std::vector<KernelCase> list = all();
  return list;
}

std::uint64_t digest(const Bytes& bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::uint8_t b : bytes) hash = (hash ^ b) * 0x100000001b3;
  return hash;
}

}  // namespace dsv4::kernel_check
