// SPDX-License-Identifier: Apache-2.0
// What the tests of emulated kernels share: every schedule, and reports that must hold a finding.
#pragma once

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "cuda/emulator/machine.hpp"
#include "cuda/isa/isa.hpp"

namespace dsv4::cuda_test {

using namespace emulator;  // the vocabulary of these tests

// All schedules, with copies that land late and early.
inline std::vector<Options> every_way() {
  std::vector<Options> ways;
  for (const Schedule s : kSchedules) {
    for (const Copies c : {Copies::late, Copies::early}) ways.push_back({s, c});
  }
  return ways;
}

inline std::string name(const Options& o) {
  constexpr const char* schedules[] = {"round robin", "greedy first", "greedy last", "shuffled"};
  return std::string(schedules[static_cast<int>(o.schedule)]) +
         (o.copies == Copies::late ? ", late" : ", early");
}

// The kernel has this kind of fault, whatever the schedule.
template <class Kernel>
void expect_found(Kind kind, const Shape& shape, GlobalMemory& memory, Kernel&& kernel,
                  const std::string& words = "") {
  for (const Options& way : every_way()) {
    const Report r = run(shape, way, memory, kernel);
    EXPECT_TRUE(r.has(kind)) << name(way) << ": expected " << emulator::name(kind) << ", found\n"
                             << r.text();
    EXPECT_NE(r.text().find(words), std::string::npos) << r.text();
  }
}

template <class Kernel>
void expect_clean(const Shape& shape, GlobalMemory& memory, Kernel&& kernel) {
  for (const Options& way : every_way()) {
    const Report r = run(shape, way, memory, kernel);
    EXPECT_TRUE(r.clean()) << name(way) << "\n" << r.text();
  }
}

}  // namespace dsv4::cuda_test
