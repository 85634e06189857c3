// SPDX-License-Identifier: Apache-2.0
// The kernels on the emulator as plain functions: arrays in, arrays out. Sizes that are template
// parameters of the kernels are looked up; can_run says which are instantiated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.hpp"
#include "core/weights.hpp"
#include "cuda/emulator/options.hpp"

namespace dsv4::emulated {

using Bf16s = std::vector<std::uint16_t>;
using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;
using emulator::Options;

// Empty: the kernels exist at this model's sizes. Else what is missing.
std::string why_not(const ModelConfig& config);

struct Quantized {
  Bytes codes, scales;
};
enum class Quantizer { fp8_128, fp8_64, fp4_32 };
Quantized quantize(Quantizer which, const Bf16s& x, int rows, int columns, const Options& options);

Bf16s rms_norm(const Bf16s& x, int rows, const Floats& weight, float eps, const Options& options);

Bf16s hadamard(const Bf16s& x, int rows, int n, const Options& options);

// Either half may be missing: y empty, no post; fn empty, no pre.
struct MhcInput {
  int n = 0, d = 0, tokens = 0, iterations = 0;
  float norm_eps = 0, hc_eps = 0;
  Bf16s y, streams;
  Floats post, comb, fn, base, scale;
};
struct MhcOutput {
  Bf16s out, x;
  Floats mixes, pre, post, comb;
};
MhcOutput mhc(const MhcInput& in, const Options& options);

struct AttentionInput {
  int c = 0, rope = 0, heads = 0, tokens = 0, start = 0;
  float eps = 0;
  Bf16s q, kv;
  Floats kv_weight, frequencies;
};
struct AttentionOutput {
  Bf16s q_normed, q, kv_normed, kv_roped;
  Floats kv;  // read back from the rows of the cache
};
AttentionOutput attention_inputs(const AttentionInput& in, const Options& options);

struct IndexQueryInput {
  int j = 0, rope = 0, heads = 0, tokens = 0, start = 0;
  Bf16s q;
  Floats frequencies;
};
struct IndexQueryOutput {
  Bf16s roped, rotated;
  Floats q;
};
IndexQueryOutput index_queries(const IndexQueryInput& in, const Options& options);

struct CompressorInput {
  int c = 0, rope = 0, ratio = 0, tokens = 0, start = 0;
  bool indexing = false;
  float eps = 0;
  Floats kv, score, ape, kv_state, score_state, norm, frequencies;
};
struct CompressorOutput {
  Floats pooled, entry, kv_state, score_state;
  Bf16s normed, roped, rotated;
};
CompressorOutput compress(const CompressorInput& in, const Options& options);

struct GateInput {
  int tokens = 0, experts = 0, k = 0;
  float route_scale = 0;
  Floats logits, bias;
  std::vector<std::int32_t> tid2eid, ids;
};
struct GateOutput {
  Floats scores, weights;
  std::vector<std::int32_t> indices;
};
GateOutput gate(const GateInput& in, const Options& options);

// x[m, k] W^T in BF16, m in slices of 16; W in E4M3 or E2M1.
Bf16s linear(const Bf16s& x, int m, const Weight& w, const Options& options);

}  // namespace dsv4::emulated
