// SPDX-License-Identifier: Apache-2.0
// The kernels as functions of arrays: arrays in, arrays out, on the emulated GPU or on a real one.
// Sizes that are template parameters of the kernels are looked up; why_not says which are missing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/config.hpp"
#include "cuda/emulator/options.hpp"

namespace dsv4::stages {

using Bf16s = std::vector<std::uint16_t>;
using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

// Empty: the kernels exist at this model's sizes. Else what is missing.
std::string why_not(const ModelConfig& config);

enum class Quantizer { fp8_128, fp8_64, fp4_32 };
struct Quantized {
  Bytes codes, scales;
};

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

struct IndexQueryInput {
  int j = 0, rope = 0, heads = 0, tokens = 0, start = 0;
  Bf16s q;
  Floats frequencies;
};
struct IndexQueryOutput {
  Bf16s roped, rotated;
  Floats q;
};

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

// A weight as it is stored: E4M3 with a scale for 128 x 128, or E2M1 with one for 32 columns of a
// row, two codes a byte.
struct Codes {
  const std::uint8_t* codes = nullptr;
  const std::uint8_t* scales = nullptr;
  int rows = 0, columns = 0;
  bool fp4 = false;
};

class Stages {
 public:
  virtual ~Stages() = default;
  virtual std::string device() const = 0;  // "emulated", or what the driver calls the GPU
  virtual emulator::TensorCore tensor_core() const = 0;  // whose sums it makes

  virtual Quantized quantize(Quantizer which, const Bf16s& x, int rows, int columns) = 0;
  virtual Bf16s rms_norm(const Bf16s& x, int rows, const Floats& weight, float eps) = 0;
  virtual Bf16s hadamard(const Bf16s& x, int rows, int n) = 0;
  virtual MhcOutput mhc(const MhcInput& in) = 0;
  virtual AttentionOutput attention_inputs(const AttentionInput& in) = 0;
  virtual IndexQueryOutput index_queries(const IndexQueryInput& in) = 0;
  virtual CompressorOutput compress(const CompressorInput& in) = 0;
  virtual GateOutput gate(const GateInput& in) = 0;
  // x[m, k] W^T in BF16, m in slices of 16.
  virtual Bf16s linear(const Bf16s& x, int m, const Codes& w) = 0;
};

// Throws emulator::Fault from the stage whose kernel breaks a rule.
std::unique_ptr<Stages> on_emulator(const emulator::Options& options = {});
// The first GPU. Throws UsageError where this build has no code for one, or there is none.
std::unique_ptr<Stages> on_gpu();

}  // namespace dsv4::stages
