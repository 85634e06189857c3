// SPDX-License-Identifier: Apache-2.0
// Every kernel of cuda/kernels on the emulator: no fault and the same bits under every schedule,
// with copies that land late and early, 20 times under schedules of different seeds.
#include <gtest/gtest.h>

#include "cuda/kernel_check/cases.hpp"
#include "tests/cuda/emulate.hpp"

namespace dsv4::kernel_check {
namespace {

class Kernels : public testing::TestWithParam<std::size_t> {};

TEST_P(Kernels, GiveTheSameBitsUnderEverySchedule) {
  const KernelCase& c = cases()[GetParam()];
  SCOPED_TRACE(c.name);
  const auto first = stages::on_emulator();
  const stages::Bytes expected = c.run(*first);
  ASSERT_FALSE(expected.empty());
  for (const emulator::Options& way : cuda_test::every_way()) {
    const auto device = stages::on_emulator(way);
    EXPECT_EQ(digest(c.run(*device)), digest(expected)) << cuda_test::name(way);
  }
  for (std::uint64_t seed = 2; seed <= 20 && !c.slow; ++seed) {
    const auto device = stages::on_emulator(
        {emulator::Schedule::shuffled, emulator::Copies::late, emulator::TensorCore::hopper, seed});
    EXPECT_EQ(digest(c.run(*device)), digest(expected)) << "seed " << seed;
  }
}

// The same kernels, or their plain twins, as GPUs before sm_90 run them.
TEST_P(Kernels, GiveTheSameBitsWithoutClusters) {
  const KernelCase& c = cases()[GetParam()];
  SCOPED_TRACE(c.name);
  using emulator::Copies, emulator::Schedule, emulator::TensorCore;
  const auto first =
      stages::on_emulator({Schedule::greedy_first, Copies::late, TensorCore::ampere});
  const auto last = stages::on_emulator({Schedule::greedy_last, Copies::early, TensorCore::ampere});
  EXPECT_EQ(digest(c.run(*first)), digest(c.run(*last)));
}

INSTANTIATE_TEST_SUITE_P(Every, Kernels, testing::Range(std::size_t{0}, cases().size()),
                         [](const auto& made) {
                           std::string name = cases()[made.param].name;
                           for (char& ch : name)
                             if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
                           return name;
                         });

}  // namespace
}  // namespace dsv4::kernel_check
