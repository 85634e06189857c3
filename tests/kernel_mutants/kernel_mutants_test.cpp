// SPDX-License-Identifier: Apache-2.0
// Every mutant of cuda/mutants/kernels.toml is caught where the catalogue says: by the emulator's
// report under every schedule, or by other bits than the kernel's.
#include <gtest/gtest.h>

#include "cuda/kernel_check/cases.hpp"
#include "cuda/mutants/mutants.hpp"
#include "tests/cuda/emulate.hpp"

namespace dsv4::planted_kernels {
namespace {

using kernel_check::KernelCase;

constexpr auto kNone = static_cast<std::size_t>(-1);

const KernelCase& case_of(const Mutant& m) {
  for (const KernelCase& c : kernel_check::cases()) {
    if (c.name.starts_with(m.on)) return c;
  }
  throw std::logic_error(m.id + ": no case begins with " + m.on);
}

// What a kind of report is called in the emulator's words.
bool says(const emulator::Report& report, const std::string& caught) {
  using emulator::Kind;
  if (caught == "race") return report.has(Kind::race);
  if (caught == "barrier") return report.has(Kind::deadlock) || report.has(Kind::divergence);
  return caught == "bounds" && report.has(Kind::out_of_bounds);
}

class KernelMutants : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override { throw_switch(kNone); }
  void TearDown() override { throw_switch(kNone); }
};

TEST_P(KernelMutants, AreCaught) {
  const Mutant& m = catalogue()[GetParam()];
  SCOPED_TRACE(m.id + ": " + m.title);
  const KernelCase& c = case_of(m);
  const stages::Bytes right = c.run(*stages::on_emulator());
  EXPECT_EQ(c.run(*stages::on_planted_emulator()), right) << "without a switch";
  throw_switch(GetParam());
  for (const emulator::Options& way : cuda_test::every_way()) {
    const auto device = stages::on_planted_emulator(way);
    try {
      const stages::Bytes bytes = c.run(*device);
      EXPECT_EQ(m.caught, "value") << cuda_test::name(way) << ": nothing is reported";
      EXPECT_TRUE(bytes != right) << cuda_test::name(way);
    } catch (const emulator::Fault& fault) {
      EXPECT_TRUE(says(fault.report, m.caught)) << cuda_test::name(way) << "\n" << fault.what();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, KernelMutants, testing::Range(std::size_t{0}, catalogue().size()),
                         [](const auto& made) { return catalogue()[made.param].id; });

}  // namespace
}  // namespace dsv4::planted_kernels
