// SPDX-License-Identifier: Apache-2.0
// dsv4-kernel-check: every kernel on fixed inputs, on the emulator and, where there is a GPU, on
// the GPU, bit for bit, 20 times.
//   dsv4-kernel-check [--gpu] [--repeats N] [--only TEXT]
// Exit code: 0 all equal, 1 a difference, 2 bad usage, 3 --gpu and there is no GPU.
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <functional>

#include "core/error.hpp"
#include "cuda/kernel_check/cases.hpp"

namespace {

using namespace dsv4;

using Device = std::function<std::unique_ptr<stages::Stages>(int repeat)>;

// Another schedule, other copies and another seed each time.
Device emulated(emulator::TensorCore tensor_core) {
  return [=](int repeat) {
    const auto i = static_cast<std::size_t>(repeat);
    return stages::on_emulator({emulator::kSchedules[i % emulator::kSchedules.size()],
                                i / 4 % 2 == 0 ? emulator::Copies::late : emulator::Copies::early,
                                tensor_core, i + 1});
  };
}

// The same bits as `expected`, `repeats` times.
bool equal(const kernel_check::KernelCase& c, const Device& device, const stages::Bytes& expected,
           int repeats) {
  for (int i = 0; i < repeats; ++i) {
    const stages::Bytes bytes = c.run(*device(i));
    if (bytes == expected) continue;
    std::size_t at = 0;
    while (at < bytes.size() && at < expected.size() && bytes[at] == expected[at]) ++at;
    fmt::print("{}: run {} differs from the emulator at byte {} of {}\n", c.name, i, at,
               expected.size());
    return false;
  }
  return true;
}

int check(bool gpu, int repeats, const char* only) {
  // A GPU is compared with the emulation of its own tensor cores.
  const std::string name = gpu ? stages::on_gpu()->device() : "emulated";
  const auto tensor_core = gpu ? stages::on_gpu()->tensor_core() : emulator::TensorCore::hopper;
  const Device model = emulated(tensor_core);
  const Device device = gpu ? Device([](int) { return stages::on_gpu(); }) : model;
  int same = 0, different = 0;
  for (const auto& c : kernel_check::cases()) {
    if (c.name.find(only) == std::string::npos) continue;
    ++(equal(c, device, c.run(*model(0)), repeats) ? same : different);
  }
  fmt::print("{} against the emulator, {} times each: {} kernels equal bit for bit, {} differ\n",
             name, repeats, same, different);
  return different == 0 && same > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  bool gpu = false;
  int repeats = 20;
  const char* only = "";
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--gpu") == 0) {
      gpu = true;
    } else if (std::strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) {
      repeats = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else {
      repeats = 0;
    }
  }
  if (repeats < 1) {
    fmt::print(stderr, "usage: dsv4-kernel-check [--gpu] [--repeats N] [--only TEXT]\n");
    return 2;
  }
  try {
    return check(gpu, repeats, only);
  } catch (const UsageError& e) {
    fmt::print(stderr, "dsv4-kernel-check: {}\n", e.what());
    return 3;
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsv4-kernel-check: {}\n", e.what());
    return 1;
  }
}
