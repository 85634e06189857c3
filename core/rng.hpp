// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: value i of stream `name` under `seed` does not depend on anything
// drawn before it, so a generated checkpoint is the same whatever the order or the number of
// threads.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsv4 {

class Rng {
 public:
  Rng(std::uint64_t seed, std::string_view stream);
  std::uint64_t bits(std::uint64_t i) const;  // 64 random bits
  double uniform(std::uint64_t i) const;      // [0, 1), a multiple of 2^-53
  double normal(std::uint64_t i) const;       // mean 0, variance 1 (Box-Muller)

 private:
  std::uint64_t key_;
};

}  // namespace dsv4
