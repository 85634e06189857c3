// SPDX-License-Identifier: Apache-2.0
// Products with FP8 and FP4 weights: the quantiser and the skinny product, wherever the model
// multiplies by codes.
#include <algorithm>
#include <fmt/format.h>

#include "cli/kernel_arrays.hpp"
#include "cli/kernel_stages.hpp"
#include "core/dtype.hpp"
#include "reference/error_bound.hpp"
#include "reference/experts.hpp"
#include "reference/linear.hpp"

namespace dsv4::cli {
namespace {

namespace error = reference::error;
using reference::ExpertWeights;
using reference::OutRows;

// The product kernel reads E4M3 and E2M1.
bool in_codes(const Weight& w) { return w.dtype == DType::F8_E4M3 || w.dtype == DType::I8; }

}  // namespace

// x as the quantiser kernel leaves it; compared with the reference's bit for bit.
Mat KernelStages::quantised(const std::string& tap, const Mat& x) {
  const auto rows = static_cast<int>(x.rows()), columns = static_cast<int>(x.cols());
  const stages::Quantized q =
      kernels_.quantize(stages::Quantizer::fp8_128, bf16s(x), rows, columns);
  Mat out(x.rows(), x.cols());
  for (Index i = 0; i < x.size(); ++i) {
    out.data()[i] = static_cast<Real>(decode_e4m3(q.codes[static_cast<std::size_t>(i)])) *
                    static_cast<Real>(decode_e8m0(q.scales[static_cast<std::size_t>(i / 128)]));
  }
  StageJudge(call_, results_).exactly(tap, out, plain(round_.e4m3("attn.wq_a.in", x, 128)));
  return out;
}

// x W^T as the kernel has it, stored in BF16.
Mat KernelStages::product(const std::string& tap, const Mat& x, const Weight& w,
                          std::string_view site) {
  Mat y = matrix(kernels_.linear(bf16s(x), static_cast<int>(x.rows()), codes(w)), x.rows());
  StageJudge judge(call_, results_);
  judge.kernel(tap, y, {static_cast<double>(w.cols)});
  Tap to(judge);
  to.bind("s", x.rows()).bind("d", w.rows);
  to(tap + "[s,d]", round_.bf16(site, reference::linear(x, w)),
     [&] { return error::linear(x, w); });
  return y;
}

// Products of the attention. Their inputs are quantised by the kernel, once where two share one.
void KernelStages::linears(Place& p, const std::string& leaf) {
  const std::string at = p.prefix + ".";
  struct Product {
    const char* leaf;
    const char* in;
    const char* from;
    const Weight* w;
    const char* site;
  };
  const auto& w = p.weights.attn;
  const Product products[] = {
      {"attn.wq_a.out", "attn.wq_a.in", "attn_norm.out", &w.wq_a, "attn.wq_a.out"},
      {"attn.wkv.out", "attn.wkv.in", "attn_norm.out", &w.wkv, "attn.wkv.out"},
      {"attn.wq_b.out", "attn.wq_b.in", "attn.qr", &w.wq_b, "attn.wq_b.out"},
      {"attn.out", "attn.wo_b.in", "attn.o_lora", &w.wo_b, "attn.out"},
      {"attn.indexer.wq_b.out", "attn.indexer.wq_b.in", "attn.qr",
       w.indexer ? &w.indexer->wq_b : nullptr, "indexer.wq_b.out"},
  };
  for (const Product& q : products) {
    if (leaf != q.leaf || q.w == nullptr || !known(at + q.from) || !in_codes(*q.w)) continue;
    product(at + leaf, quantised(at + q.in, value(at + q.from)), *q.w, q.site);
  }
}

// u_g = wo_a[g] . (the heads of group g): codes of W, but x as it is.
void KernelStages::grouped_output(Place& p) {
  const std::string from = p.prefix + ".attn.o_derotated", tap = p.prefix + ".attn.o_lora";
  const Weight& w = p.weights.attn.wo_a;
  if (!known(from) || !in_codes(w)) return;
  const Mat& o = value(from);
  const Index rank = config_.o_lora_rank, width = w.cols;
  Mat y(o.rows(), w.rows), expected(o.rows(), w.rows), bound(o.rows(), w.rows);
  for (Index g = 0; g < config_.o_groups; ++g) {
    const Weight slice = w.row_slice(g * rank, rank);
    if (slice.scale_row != 0) return;  // begins inside a block of 128 rows: not for the kernel
    const Mat x = o.middleCols(g * width, width);
    const auto rows = static_cast<int>(x.rows());
    y.middleCols(g * rank, rank) = matrix(kernels_.linear(bf16s(x), rows, codes(slice)), x.rows());
    expected.middleCols(g * rank, rank) = reference::linear(x, w, OutRows{g * rank, rank});
    bound.middleCols(g * rank, rank) = error::linear(x, w, OutRows{g * rank, rank});
  }
  StageJudge judge(call_, results_);
  judge.kernel(tap, y, {static_cast<double>(width)});
  Tap to(judge);
  to.bind("s", o.rows()).bind("d", w.rows);
  to(tap + "[s,d]", round_.bf16("attn.o_lora", std::move(expected)), [&] { return bound; });
}

// One expert. No kernel computes the clamp and the activation: they are done here, on the products
// that the kernel has made.
void KernelStages::expert(const std::string& stem, const std::string& out, const ExpertWeights& w,
                          const Mat& x, const Mat& weight) {
  if (!in_codes(w.w1) || !in_codes(w.w2) || !in_codes(w.w3)) return;
  const Mat x8 = quantised(stem + ".in", x);
  const Mat gate = product(stem + ".gate", x8, w.w1, "experts.gate");
  const Mat up = product(stem + ".up", x8, w.w3, "experts.up");
  const Mat hidden = reference::swiglu(gate, up, weight, config_.swiglu_limit).hidden;
  product(out, quantised(stem + ".w2.in", plain(round_.bf16("experts.hidden", hidden))), w.w2,
          "experts.out");
}

void KernelStages::shared_expert(Place& p) {
  const std::string at = p.prefix + ".ffn.", from = p.prefix + ".ffn_norm.out";
  if (!known(from)) return;
  expert(at + "shared_experts", at + "shared", p.weights.ffn.shared_experts, value(from), {});
}

// Every expert on the tokens that chose it, whether the trace has taps inside the experts or not.
void KernelStages::routed_experts(Place& p) {
  const std::string at = p.prefix + ".ffn.", from = p.prefix + ".ffn_norm.out";
  if (!known(from) || !known(at + "gate.indices") || !known(at + "gate.weights")) return;
  const Mat& x = value(from);
  const Mat& indices = value(at + "gate.indices");
  const Mat& weights = value(at + "gate.weights");
  for (std::size_t e = 0; e < p.weights.ffn.experts.size(); ++e) {
    std::vector<Index> choices;  // places in `indices`
    for (Index i = 0; i < indices.size(); ++i) {
      if (indices.data()[i] == static_cast<Real>(e)) choices.push_back(i);
    }
    if (choices.empty()) continue;
    Mat visitors(std::ssize(choices), x.cols()), weight(std::ssize(choices), 1);
    for (Index i = 0; i < visitors.rows(); ++i) {
      const Index choice = choices[static_cast<std::size_t>(i)];
      visitors.row(i) = x.row(choice / indices.cols());
      weight(i, 0) = weights.data()[choice];
    }
    const std::string stem = fmt::format("{}experts.{}", at, e);
    expert(stem, stem + ".out", p.weights.ffn.experts[e], visitors, weight);
  }
}

// The two projections that make the input of an MTP block.
void KernelStages::mtp_projection(Place& p, const std::string& which) {
  const std::string at = p.prefix + "." + which;  // "mtp.0.e_proj"
  const std::string from = p.prefix + (which == "e_proj" ? ".enorm.out" : ".hnorm.out");
  if (!known(from)) return;
  const Weight w = request_.checkpoint->matrix(at);
  if (!in_codes(w)) return;
  // Each stream by itself: [s, n*d] and [s*n, d] are the same bytes.
  const Mat& whole = value(from);
  const Mat x = Eigen::Map<const Mat>(whole.data(), whole.size() / w.cols, w.cols);
  product(at + ".out", quantised(at + ".in", x), w, "mtp." + which + ".out");
}

}  // namespace dsv4::cli
