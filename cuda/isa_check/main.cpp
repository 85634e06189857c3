// SPDX-License-Identifier: Apache-2.0
// dsv4-isa-check: every operation of cuda/isa on the emulator, against recorded outputs, and, where
// there is a GPU, on the GPU against the emulator, bit for bit.
//   dsv4-isa-check [--recorded FILE | --record FILE] [--gpu]
// Exit code: 0 all equal, 1 a difference or a fault, 2 bad usage or file, 3 --gpu and no GPU.
#include <cstring>
#include <fmt/format.h>
#include <stdexcept>

#include "cuda/isa_check/recorded.hpp"
#include "cuda/isa_check/suite.hpp"

namespace {

using dsv4::isa_check::difference;
using dsv4::isa_check::Outcome;
using dsv4::isa_check::Recorded;

std::vector<Outcome> emulate(dsv4::emulator::TensorCore core) {
  dsv4::emulator::Options options;
  options.tensor_core = core;
  return dsv4::isa_check::on_emulator(options);
}

Recorded outputs() {
  Recorded out;
  for (Outcome& o : emulate(dsv4::emulator::TensorCore::hopper)) {
    out["hopper/" + o.name] = std::move(o.words);
  }
  for (Outcome& o : emulate(dsv4::emulator::TensorCore::ampere)) {
    if (o.architecture >= 90 || o.words == out["hopper/" + o.name]) continue;
    out["ampere/" + o.name] = std::move(o.words);
  }
  return out;
}

int compare_with(const char* file) {
  const Recorded recorded = dsv4::isa_check::read(file);
  const Recorded now = outputs();
  int differences = 0;
  const auto report = [&](const std::string& text) {
    if (text.empty()) return;
    ++differences;
    fmt::print("{}\n", text);
  };
  for (const auto& [name, words] : now) {
    const auto it = recorded.find(name);
    report(it == recorded.end() ? name + ": not recorded"
                                : difference(name, it->second, words, "recorded", "emulated"));
  }
  for (const auto& [name, words] : recorded) {
    if (!now.contains(name)) report(name + ": recorded, and no longer there");
  }
  fmt::print("emulator against {}: {} cases, {} differ\n", file, now.size(), differences);
  return differences == 0 ? 0 : 1;
}

int compare_with_gpu() {
  const auto gpu = dsv4::isa_check::find_gpu();
  if (gpu.name.empty()) {
    fmt::print("GPU: SKIPPED ({})\n", gpu.reason);
    return 3;
  }
  const auto emulated = emulate(gpu.architecture >= 90 ? dsv4::emulator::TensorCore::hopper
                                                       : dsv4::emulator::TensorCore::ampere);
  const auto measured = dsv4::isa_check::on_gpu();
  int equal = 0, different = 0, skipped = 0;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    if (measured[i].words.empty()) {
      ++skipped;
      continue;
    }
    const std::string text = difference(measured[i].name, emulated[i].words, measured[i].words,
                                        "emulated", "on the GPU");
    if (!text.empty()) fmt::print("{}\n", text);
    ++(text.empty() ? equal : different);
  }
  fmt::print("{} (sm_{}) against the emulator: {} equal bit for bit, {} differ, {} not available\n",
             gpu.name, gpu.architecture, equal, different, skipped);
  return different == 0 ? 0 : 1;
}

int usage() {
  fmt::print(stderr, "usage: dsv4-isa-check [--recorded FILE | --record FILE] [--gpu]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const char* recorded = nullptr;
  const char* to_record = nullptr;
  bool gpu = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--gpu") == 0) {
      gpu = true;
    } else if (std::strcmp(argv[i], "--recorded") == 0 && i + 1 < argc) {
      recorded = argv[++i];
    } else if (std::strcmp(argv[i], "--record") == 0 && i + 1 < argc) {
      to_record = argv[++i];
    } else {
      return usage();
    }
  }
  if (recorded == nullptr && to_record == nullptr && !gpu) return usage();
  try {
    int code = 0;
    if (to_record != nullptr) dsv4::isa_check::write(to_record, outputs());
    if (recorded != nullptr) code = compare_with(recorded);
    return gpu && code == 0 ? compare_with_gpu() : code;
  } catch (const std::invalid_argument& e) {
    fmt::print(stderr, "dsv4-isa-check: {}\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsv4-isa-check: {}\n", e.what());
    return 1;
  }
}
