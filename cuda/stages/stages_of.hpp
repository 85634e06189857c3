// SPDX-License-Identifier: Apache-2.0
// The stages on one kind of device. Each call has memory of its own.
#pragma once

#include <string>
#include <utility>

#include "cuda/stages/run.hpp"
#include "cuda/stages/run_attention.hpp"

namespace dsv4::stages {

// Gpu: launch.hpp; made from a `Gpu::Options`.
template <class Gpu>
class StagesOf : public Stages {
 public:
  StagesOf(std::string device, typename Gpu::Options options)
      : device_(std::move(device)), options_(std::move(options)) {}

  std::string device() const override { return device_; }
  emulator::TensorCore tensor_core() const override { return Gpu(options_).tensor_core(); }
  Quantized quantize(Quantizer which, const Bf16s& x, int rows, int columns) override {
    Gpu gpu(options_);
    return stages::quantize(gpu, which, x, rows, columns);
  }
  Bf16s rms_norm(const Bf16s& x, int rows, const Floats& weight, float eps) override {
    Gpu gpu(options_);
    return stages::rms_norm(gpu, x, rows, weight, eps);
  }
  Bf16s hadamard(const Bf16s& x, int rows, int n) override {
    Gpu gpu(options_);
    return stages::hadamard(gpu, x, rows, n);
  }
  MhcOutput mhc(const MhcInput& in) override {
    Gpu gpu(options_);
    return stages::mhc(gpu, in);
  }
  AttentionOutput attention_inputs(const AttentionInput& in) override {
    Gpu gpu(options_);
    return stages::attention_inputs(gpu, in);
  }
  IndexQueryOutput index_queries(const IndexQueryInput& in) override {
    Gpu gpu(options_);
    return stages::index_queries(gpu, in);
  }
  CompressorOutput compress(const CompressorInput& in) override {
    Gpu gpu(options_);
    return stages::compress(gpu, in);
  }
  GateOutput gate(const GateInput& in) override {
    Gpu gpu(options_);
    return stages::gate(gpu, in);
  }
  Bf16s linear(const Bf16s& x, int m, const Codes& w) override {
    Gpu gpu(options_);
    return stages::linear(gpu, x, m, w);
  }

 private:
  std::string device_;
  typename Gpu::Options options_;
};

}  // namespace dsv4::stages
