// SPDX-License-Identifier: Apache-2.0
// Inputs of kernels, the same for the same seed everywhere.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/stages/stages.hpp"

namespace dsv4::kernel_check {

class Inputs {
 public:
  explicit Inputs(std::uint64_t seed) : state_(seed) {}

  // In BF16: of both signs and magnitudes from 2^-7 to 2^7; every 61st is 0, or the largest of its
  // neighbourhood.
  stages::Bf16s bf16(std::size_t count);
  // Uniform in [low, high).
  stages::Floats floats(std::size_t count, float low, float high);
  std::vector<std::int32_t> integers(std::size_t count, std::int32_t below);
  // Codes: any byte but the NaNs of E4M3; scales: exponents around 1.
  stages::Bytes e4m3(std::size_t count);
  stages::Bytes bytes(std::size_t count);
  stages::Bytes scales(std::size_t count);

 private:
  std::uint64_t next();  // splitmix64

  std::uint64_t state_;
};

// 10000^(-2i / rope)
stages::Floats frequencies(int rope);

// Without post there is no y, without pre no fn. Drawn by `seed`.
stages::MhcInput mhc_input(std::uint64_t seed, int n, int d, int tokens, int iterations, bool post,
                           bool pre);
// Scores lie within +-scores; of the attention's entries.
stages::CompressorInput compressor_input(std::uint64_t seed, int c, int rope, int ratio, int start,
                                         int tokens, float scores);

// Values that quantisers must get right: zeros, the smallest, ties, the largest, infinities, NaN.
stages::Bf16s edges(std::size_t count);

}  // namespace dsv4::kernel_check
