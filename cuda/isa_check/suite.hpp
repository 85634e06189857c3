// SPDX-License-Identifier: Apache-2.0
// The suite as data: names, inputs, and outputs by the emulator or by a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulator/options.hpp"

namespace dsv4::isa_check {

struct Outcome {
  std::string name;
  int architecture = 80;             // the least that has the operation
  std::vector<std::uint32_t> words;  // empty: not run
};

// Every case on the emulator. Throws emulator::Fault if a body breaks a rule.
std::vector<Outcome> on_emulator(const emulator::Options& options);

// The input of a case: the same words for the same name everywhere.
std::vector<std::uint32_t> inputs(const std::string& name, int fill, int count);

struct Gpu {
  std::string name;  // empty: none; `reason` says why
  std::string reason;
  int architecture = 0;  // 90
};

// Where nvcc built the suite: what the first device is, and every case on it that it can run.
Gpu find_gpu();
std::vector<Outcome> on_gpu();

}  // namespace dsv4::isa_check
