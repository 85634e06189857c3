// SPDX-License-Identifier: Apache-2.0
// Every kernel on fixed inputs: small sizes and true ones, random values and edges. Run on any
// device; what comes back is all the outputs, as bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/stages/stages.hpp"

namespace dsv4::kernel_check {

struct KernelCase {
  std::string name;  // "mhc/d512"
  std::function<stages::Bytes(stages::Stages&)> run;
  bool slow = false;  // seconds on the emulator: not for every seed
};
const std::vector<KernelCase>& cases();

// FNV-1a.
std::uint64_t digest(const stages::Bytes& bytes);

}  // namespace dsv4::kernel_check
