// SPDX-License-Identifier: Apache-2.0
#include <span>

#include "cuda/isa_check/cases.hpp"
#include "cuda/isa_check/suite.hpp"

namespace dsv4::isa_check {
namespace {

template <class Case>
Outcome run_case(const emulator::Options& options) {
  emulator::GlobalMemory memory;
  const std::string name(Case::name);
  const auto words = inputs(name, static_cast<int>(Case::fill), Case::in);
  const auto* in = memory.constant("in", std::span<const std::uint32_t>(words));
  auto* out = memory.make<std::uint32_t>("out", Case::out);
  const auto map = [](const void* base) {
    return isa::make_tensor_map({base, 64, 16, 4, 256, 32, 8, isa::Swizzle::bytes128});
  };
  const isa::TensorMap maps[2] = {map(in), map(out)};
  const emulator::Shape shape{{Case::blocks}, Case::threads, Case::shared, Case::cluster};
  emulator::launch(shape, options, memory, [&] { Case::body({in, out, maps}); });
  return {name, Case::architecture, {out, out + Case::out}};
}

template <class... Cases>
std::vector<Outcome> run_all(List<Cases...>, const emulator::Options& options) {
  return {run_case<Cases>(options)...};
}

}  // namespace

std::vector<Outcome> on_emulator(const emulator::Options& options) {
  return run_all(AllCases{}, options);
}

}  // namespace dsv4::isa_check
