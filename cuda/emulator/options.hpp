// SPDX-License-Identifier: Apache-2.0
// How a kernel is launched on the emulator, and which of the behaviours that a GPU may show it
// shows.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace dsv4::emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

struct Shape {
  Dim3 grid;
  unsigned threads = 32;   // per block, a multiple of 32
  std::size_t shared = 0;  // dynamic, bytes
  unsigned cluster = 1;    // blocks along x that form a cluster
};

// Which runnable thread goes next. Greedy: one warp as far as it can go.
enum class Schedule : std::uint8_t { round_robin, greedy_first, greedy_last, shuffled };
inline constexpr std::array kSchedules{Schedule::round_robin, Schedule::greedy_first,
                                       Schedule::greedy_last, Schedule::shuffled};

// Asynchronous copies land when somebody waits for them, or at once: both are allowed.
enum class Copies : std::uint8_t { late, early };

// The sums of tensor cores (emulator/tensor_core.hpp).
enum class TensorCore : std::uint8_t { hopper, ampere, exact };

struct Options {
  Schedule schedule = Schedule::round_robin;
  Copies copies = Copies::late;
  TensorCore tensor_core = TensorCore::hopper;
  std::uint64_t seed = 1;    // of the shuffled schedule
  bool count_banks = false;  // Report::turns; slow
};

}  // namespace dsv4::emulator
