// SPDX-License-Identifier: Apache-2.0
// Kernels with one mistake each: a copy of cuda/kernels in which every mutant of kernels.toml is
// behind a switch.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emulator/options.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::planted_kernels {

struct Mutant {
  std::string id, title;
  std::string caught;  // race | barrier | bounds | value
  std::string on;      // the beginning of a name of kernel_check::cases()
  // Caught by value. Where verify with these kernels fails first, or else a check of
  // tests/cuda/value_checks.hpp.
  std::string golden, tap, values;
};
const std::vector<Mutant>& catalogue();

// Throws this one and no other; any number that is none: all kernels are right.
void throw_switch(std::size_t mutant);

}  // namespace dsv4::planted_kernels

namespace dsv4::stages {

// As on_emulator, with the planted kernels.
std::unique_ptr<Stages> on_planted_emulator(const emulator::Options& options = {});

}  // namespace dsv4::stages
