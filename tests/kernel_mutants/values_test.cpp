// SPDX-License-Identifier: Apache-2.0
// That a mutant returns other bits says nothing about tolerances. Here each one that the emulator
// has no report for is thrown behind the backend of `dsv4 verify` and must FAIL, first, at the tap
// of the golden that cuda/mutants/kernels.toml names; what no golden reaches fails the check of
// tests/cuda/value_checks.hpp that it names.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <set>

#include "cli/kernel_backend.hpp"
#include "cli/reference_backend.hpp"
#include "conformance/runner.hpp"
#include "cuda/mutants/mutants.hpp"
#include "mutants/kill.hpp"
#include "planted/cuda/kernels/rope.hpp"
#include "tests/cuda/value_checks.hpp"

namespace dsv4::planted_kernels {
namespace {

constexpr auto kNone = static_cast<std::size_t>(-1);

// "layers.2.attn.q" -> 2
std::int64_t layer_of(const std::string& tap) { return std::stoll(tap.substr(tap.find('.') + 1)); }

// The first tap at which the kernels, on the trace's own inputs, FAIL, from the first layer to this
// one; and why.
std::pair<std::string, std::string> first_failure(const std::string& golden, std::int64_t layer) {
  static testing::Cases cases;
  const Checkpoint& checkpoint = cases.model_of(golden);
  cli::KernelBackend backend("emulated", stages::on_planted_emulator(), cli::reference_backend());
  conformance::VerifyOptions options;
  options.last_layer = layer == checkpoint.config().n_layers - 1 ? -1 : layer;
  const auto report = conformance::verify(cases.trace(golden), checkpoint, backend, options);
  EXPECT_EQ(report.exit_code(), 0) << "the trace itself";
  EXPECT_FALSE(backend.results().empty());
  for (const cli::KernelResult& r : backend.results()) {
    if (r.verdict != cli::KernelVerdict::failed) continue;
    return {r.tap, fmt::format("call {}: error {:.3g}, bound {:.3g}, rms {:.3g}, bias {:.3g} {}",
                               r.call, r.error, r.bound, r.rms, r.bias, r.reason)};
  }
  return {};
}

std::string value_check(const std::string& name) {
  const auto device = stages::on_planted_emulator();
  if (name == "fp4_codes") return value_checks::fp4_codes(*device);
  if (name == "ties") return value_checks::ties(*device);
  if (name == "ring") {
    return value_checks::ring<AttentionInputArgs>(
        [](const AttentionInputArgs& a) { attention_inputs<160, 32>(a); });
  }
  throw std::logic_error("no value check is called " + name);
}

class ValueMutants : public ::testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override { throw_switch(kNone); }
  void TearDown() override { throw_switch(kNone); }
};

TEST_P(ValueMutants, FailWhereTheCatalogueSays) {
  const Mutant& m = catalogue()[GetParam()];
  SCOPED_TRACE(m.id + ": " + m.title);

  if (m.values.empty()) {
    throw_switch(GetParam());
    const auto [tap, why] = first_failure(m.golden, layer_of(m.tap));
    EXPECT_EQ(tap, m.tap) << why;
  } else {
    EXPECT_EQ(value_check(m.values), "") << "without a switch";
    throw_switch(GetParam());
    EXPECT_NE(value_check(m.values), "");
  }
}

std::vector<std::size_t> with_values() {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < catalogue().size(); ++i) {
    if (catalogue()[i].caught == "value") numbers.push_back(i);
  }
  return numbers;
}

INSTANTIATE_TEST_SUITE_P(Every, ValueMutants, ::testing::ValuesIn(with_values()),
                         [](const auto& made) { return catalogue()[made.param].id; });

TEST(PlantedKernels, PassWithoutASwitchWhereTheirMutantsFail) {
  std::set<std::pair<std::string, std::int64_t>> places;
  for (const std::size_t i : with_values()) {
    const Mutant& m = catalogue()[i];
    if (m.values.empty()) places.emplace(m.golden, layer_of(m.tap));
  }
  throw_switch(kNone);
  for (const auto& [golden, layer] : places) {
    const auto [tap, why] = first_failure(golden, layer);
    EXPECT_EQ(tap, "") << golden << ": " << why;
  }
}

}  // namespace
}  // namespace dsv4::planted_kernels
