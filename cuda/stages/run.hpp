// SPDX-License-Identifier: Apache-2.0
// The stages whose kernels take their sizes at run time, on any device.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cuda/stages/launchers.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::stages {

template <class Format, int kBlock, class Gpu>
Quantized quantize_as(Gpu& gpu, const Bf16s& x, int rows, int columns) {
  const std::size_t codes = size(rows, columns) / (kBlock == 32 ? 2 : 1);
  const std::size_t scales = size(rows, columns / kBlock);
  kernels::QuantizeArgs a{gpu.in("x", x), gpu.out_bytes("codes", codes),
                          gpu.out_bytes("scales", scales), rows, columns};
  launch_quantize<Format, kBlock>(gpu, a);
  return {gpu.take(a.codes, codes), gpu.take(a.scales, scales)};
}

template <int kN, class Gpu>
MhcOutput mhc_of(Gpu& gpu, const MhcInput& in) {
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
  a.mixes = gpu.out_floats("mixes", if_pre(size(s, mixes)));
  a.pre = gpu.out_floats("pre", if_pre(size(s, kN)));
  a.next_post = gpu.out_floats("next post", if_pre(size(s, kN)));
  a.next_comb = gpu.out_floats("next comb", if_pre(size(s, kN, kN)));
  a.x = gpu.out_bf16("x", if_pre(size(s, in.d)));
  a.d = in.d;
  a.tokens = s;
  a.iterations = in.iterations;
  a.norm_eps = in.norm_eps;
  a.hc_eps = in.hc_eps;
  launch_mhc<kN>(gpu, a);
  return {gpu.take(a.out, in.streams.size()), gpu.take(a.x, size(s, in.d)),
          gpu.take(a.mixes, size(s, mixes)),  gpu.take(a.pre, size(s, kN)),
          gpu.take(a.next_post, size(s, kN)), gpu.take(a.next_comb, size(s, kN, kN))};
}

template <class Format, class Gpu>
void linear_slice(Gpu& gpu, kernels::LinearArgs a, int first, int m) {
  a.x += size(first, a.x_stride);
  a.y_bf16 += size(first, a.y_stride);
  a.m = std::min(16, m - first);
  launch_linear<Format>(gpu, a);
}

template <class Gpu>
Quantized quantize(Gpu& gpu, Quantizer which, const Bf16s& x, int rows, int columns) {
  switch (which) {
    case Quantizer::fp8_128:
      return quantize_as<kernels::Fp8, 128>(gpu, x, rows, columns);
    case Quantizer::fp8_64:
      return quantize_as<kernels::Fp8, 64>(gpu, x, rows, columns);
    case Quantizer::fp4_32:
      return quantize_as<kernels::Fp4, 32>(gpu, x, rows, columns);
  }
  return {};
}

template <class Gpu>
Bf16s rms_norm(Gpu& gpu, const Bf16s& x, int rows, const Floats& weight, float eps) {
  const kernels::RmsNormArgs a{gpu.in("x", x), gpu.constant("weight", weight),
                               gpu.out_bf16("out", x.size()), static_cast<int>(weight.size()), eps};
  launch_rms_norm(gpu, a, rows);
  return gpu.take(a.out, x.size());
}

template <class Gpu>
Bf16s hadamard(Gpu& gpu, const Bf16s& x, int rows, int n) {
  const kernels::HadamardArgs a{gpu.in("x", x), gpu.out_bf16("out", x.size()), rows,
                                1.0F / std::sqrt(static_cast<float>(n))};
  if (n == 64) {
    launch_hadamard<64>(gpu, a);
  } else {
    launch_hadamard<128>(gpu, a);
  }
  return gpu.take(a.out, x.size());
}

template <class Gpu>
MhcOutput mhc(Gpu& gpu, const MhcInput& in) {
  switch (in.n) {
    case 3:
      return mhc_of<3>(gpu, in);
    case 4:
      return mhc_of<4>(gpu, in);
    case 6:
      return mhc_of<6>(gpu, in);
    default:
      throw std::logic_error("mhc: number of streams not instantiated");
  }
}

template <class Gpu>
GateOutput gate(Gpu& gpu, const GateInput& in) {
  kernels::GateArgs a{};
  a.logits = gpu.constant("logits", in.logits);
  a.bias = gpu.constant("bias", in.bias);
  a.tid2eid = gpu.constant("tid2eid", in.tid2eid);
  a.ids = gpu.constant("ids", in.ids);
  a.scores = gpu.out_floats("scores", in.logits.size());
  a.indices = gpu.out_integers("indices", size(in.tokens, in.k));
  a.weights = gpu.out_floats("weights", size(in.tokens, in.k));
  a.tokens = in.tokens;
  a.experts = in.experts;
  a.k = in.k;
  a.route_scale = in.route_scale;
  launch_gate(gpu, a);
  return {gpu.take(a.scores, in.logits.size()), gpu.take(a.weights, size(in.tokens, in.k)),
          gpu.take(a.indices, size(in.tokens, in.k))};
}

template <class Gpu>
Bf16s linear(Gpu& gpu, const Bf16s& x, int m, const Codes& w) {
  const std::size_t scales =
      w.fp4 ? size(w.rows, w.columns / 32) : size((w.rows + 127) / 128, (w.columns + 127) / 128);
  kernels::LinearArgs a{};
  a.x = gpu.in("x", x);
  a.w = gpu.aligned("w", w.codes, size(w.rows, w.columns) / (w.fp4 ? 2 : 1));
  a.w_scale = gpu.aligned("scales", w.scales, scales);
  a.y_bf16 = gpu.out_bf16("y", size(m, w.rows));
  a.n = w.rows;
  a.k = a.x_stride = w.columns;
  a.y_stride = w.rows;
  for (int first = 0; first < m; first += 16) {
    if (w.fp4) {
      linear_slice<kernels::E2m1Weight>(gpu, a, first, m);
    } else {
      linear_slice<kernels::E4m3Weight>(gpu, a, first, m);
    }
  }
  return gpu.take(a.y_bf16, size(m, w.rows));
}

}  // namespace dsv4::stages
