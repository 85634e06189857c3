// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulated/stages.hpp"

#include <cmath>
#include <fmt/format.h>
#include <stdexcept>

#include "cuda/emulated/launch.hpp"
#include "cuda/kernels/gate.hpp"
#include "cuda/kernels/hadamard.hpp"
#include "cuda/kernels/linear_tiled.hpp"
#include "cuda/kernels/mhc.hpp"
#include "cuda/kernels/quantize.hpp"
#include "cuda/kernels/rms_norm.hpp"

namespace dsv4::emulated {
namespace {

constexpr unsigned kThreads = 128;

template <class Format, int kBlock>
Quantized quantize_as(const Bf16s& x, int rows, int columns, const Options& options) {
  Gpu gpu(options);
  const std::size_t codes = size(rows, columns) / (kBlock == 32 ? 2 : 1);
  const std::size_t scales = size(rows, columns / kBlock);
  kernels::QuantizeArgs a{gpu.in("x", x), gpu.out<std::uint8_t>("codes", codes),
                          gpu.out<std::uint8_t>("scales", scales), rows, columns};
  gpu.launch({{blocks(rows * (columns / kBlock), 4)}, kThreads},
             [&] { kernels::quantize<Format, kBlock>(a); });
  return {take(a.codes, codes), take(a.scales, scales)};
}

template <int kN>
MhcOutput mhc_of(const MhcInput& in, const Options& options) {
  Gpu gpu(options);
  const bool post = !in.y.empty(), pre = !in.fn.empty();
  const int s = in.tokens, mixes = (2 + kN) * kN;
  const auto if_pre = [&](std::size_t n) { return pre ? n : 0; };
  kernels::MhcArgs a{};
  a.y = gpu.in("y", in.y);
  a.streams = gpu.in("streams", in.streams);
  a.post = gpu.constant("post", in.post);
  a.comb = gpu.constant("comb", in.comb);
  a.out = gpu.out_bf16("out", post ? in.streams.size() : 0);
  a.fn = gpu.constant("fn", in.fn);
  a.base = gpu.constant("base", in.base);
  a.scale = gpu.constant("scale", in.scale);
  a.mixes = gpu.out<float>("mixes", if_pre(size(s, mixes)));
  a.pre = gpu.out<float>("pre", if_pre(size(s, kN)));
  a.next_post = gpu.out<float>("next post", if_pre(size(s, kN)));
  a.next_comb = gpu.out<float>("next comb", if_pre(size(s, kN, kN)));
  a.x = gpu.out_bf16("x", if_pre(size(s, in.d)));
  a.d = in.d;
  a.iterations = in.iterations;
  a.norm_eps = in.norm_eps;
  a.hc_eps = in.hc_eps;
  gpu.launch({{count(s)}, kThreads, size(kN, in.d, 2)}, [&] { kernels::mhc<kN>(a); });
  return {take(a.out, in.streams.size()), take(a.x, size(s, in.d)),
          take(a.mixes, size(s, mixes)),  take(a.pre, size(s, kN)),
          take(a.next_post, size(s, kN)), take(a.next_comb, size(s, kN, kN))};
}

template <class Format>
void linear_slice(Gpu& gpu, kernels::LinearArgs a, int first, int m) {
  a.x += size(first, a.x_stride);
  a.y_bf16 += size(first, a.y_stride);
  a.m = std::min(16, m - first);
  constexpr unsigned kBlock = 32 * kernels::kLinearWarps;
  // From 4 rows on x costs more than W where each block reads all of it.
  if (a.m > 4 && a.n % kernels::kTileOutputs == 0) {
    gpu.launch({{blocks(a.n, kernels::kTileOutputs)}, kBlock},
               [&] { kernels::linear_tiled<Format>(a); });
  } else {
    gpu.launch({{blocks(a.n, 8)}, kBlock}, [&] { kernels::linear<Format>(a); });
  }
}

}  // namespace

std::string why_not(const ModelConfig& c) {
  const bool known = (c.hc_mult == 3 && c.head_dim == 160 && c.rope_head_dim == 32) ||
                     (c.hc_mult == 6 && c.head_dim == 128 && c.rope_head_dim == 64) ||
                     (c.hc_mult == 4 && c.head_dim == 512 && c.rope_head_dim == 64);
  if (known && (c.index_head_dim == 64 || c.index_head_dim == 128) && c.n_routed_experts <= 384) {
    return {};
  }
  return fmt::format(
      "the kernels are not instantiated at n = {}, c = {}, r_d = {}, j = {}, {} experts", c.hc_mult,
      c.head_dim, c.rope_head_dim, c.index_head_dim, c.n_routed_experts);
}

Quantized quantize(Quantizer which, const Bf16s& x, int rows, int columns, const Options& options) {
  switch (which) {
    case Quantizer::fp8_128:
      return quantize_as<kernels::Fp8, 128>(x, rows, columns, options);
    case Quantizer::fp8_64:
      return quantize_as<kernels::Fp8, 64>(x, rows, columns, options);
    case Quantizer::fp4_32:
      return quantize_as<kernels::Fp4, 32>(x, rows, columns, options);
  }
  return {};
}

Bf16s rms_norm(const Bf16s& x, int rows, const Floats& weight, float eps, const Options& options) {
  Gpu gpu(options);
  const kernels::RmsNormArgs a{gpu.in("x", x), gpu.constant("weight", weight),
                               gpu.out_bf16("out", x.size()), static_cast<int>(weight.size()), eps};
  gpu.launch({{count(rows)}, kThreads}, [&] { kernels::rms_norm(a); });
  return take(a.out, x.size());
}

Bf16s hadamard(const Bf16s& x, int rows, int n, const Options& options) {
  Gpu gpu(options);
  const kernels::HadamardArgs a{gpu.in("x", x), gpu.out_bf16("out", x.size()), rows,
                                1.0F / std::sqrt(static_cast<float>(n))};
  gpu.launch({{blocks(rows, 4)}, kThreads}, [&] {
    if (n == 64) return kernels::hadamard<64>(a);
    kernels::hadamard<128>(a);
  });
  return take(a.out, x.size());
}

MhcOutput mhc(const MhcInput& in, const Options& options) {
  switch (in.n) {
    case 3:
      return mhc_of<3>(in, options);
    case 4:
      return mhc_of<4>(in, options);
    case 6:
      return mhc_of<6>(in, options);
    default:
      throw std::logic_error("mhc: number of streams not instantiated");
  }
}

GateOutput gate(const GateInput& in, const Options& options) {
  Gpu gpu(options);
  kernels::GateArgs a{};
  a.logits = gpu.constant("logits", in.logits);
  a.bias = gpu.constant("bias", in.bias);
  a.tid2eid = gpu.constant("tid2eid", in.tid2eid);
  a.ids = gpu.constant("ids", in.ids);
  a.scores = gpu.out<float>("scores", in.logits.size());
  a.indices = gpu.out<std::int32_t>("indices", size(in.tokens, in.k));
  a.weights = gpu.out<float>("weights", size(in.tokens, in.k));
  a.tokens = in.tokens;
  a.experts = in.experts;
  a.k = in.k;
  a.route_scale = in.route_scale;
  gpu.launch({{blocks(in.tokens, 4)}, kThreads}, [&] { kernels::gate<12>(a); });
  return {take(a.scores, in.logits.size()), take(a.weights, size(in.tokens, in.k)),
          take(a.indices, size(in.tokens, in.k))};
}

Bf16s linear(const Bf16s& x, int m, const Weight& w, const Options& options) {
  Gpu gpu(options);
  const auto rows = static_cast<int>(w.rows), columns = static_cast<int>(w.cols);
  const bool fp4 = w.dtype == DType::I8;
  const auto* codes = reinterpret_cast<const std::uint8_t*>(w.data);
  const std::size_t scales =
      fp4 ? size(rows, columns / 32)
          : size((rows + static_cast<int>(w.scale_row) + 127) / 128, (columns + 127) / 128);
  kernels::LinearArgs a{};
  a.x = gpu.in("x", x);
  a.w = gpu.aligned("w", codes, size(rows, static_cast<int>(w.row_bytes())));
  a.w_scale = gpu.aligned("scales", w.scale, scales);
  a.y_bf16 = gpu.out_bf16("y", size(m, rows));
  a.n = rows;
  a.k = a.x_stride = columns;
  a.y_stride = rows;
  for (int first = 0; first < m; first += 16) {
    if (fp4) {
      linear_slice<kernels::E2m1Weight>(gpu, a, first, m);
    } else {
      linear_slice<kernels::E4m3Weight>(gpu, a, first, m);
    }
  }
  return take(a.y_bf16, size(m, rows));
}

}  // namespace dsv4::emulated
