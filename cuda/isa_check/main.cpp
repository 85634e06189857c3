// SPDX-License-Identifier: Apache-2.0
// dsv4-isa-check: every operation of cuda/isa on the emulator, against recorded outputs, and, where
// there is a GPU, on the GPU against the emulator, bit for bit.
//   dsv4-isa-check [--recorded FILE | --record FILE] [--gpu]
// Exit code: 0 all equal, 1 a difference, 2 bad usage, 3 --gpu and there is no GPU.
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <map>

#include "cuda/isa_check/suite.hpp"

namespace {

using dsv4::isa_check::digest;
using dsv4::isa_check::Outcome;
using Table = std::map<std::string, std::string>;  // "hopper/mma_bf16" -> digest

constexpr const char* kNames[] = {"hopper", "ampere"};

std::vector<Outcome> emulate(int which) {
  dsv4::emulator::Options options;
  options.tensor_core =
      which == 0 ? dsv4::emulator::TensorCore::hopper : dsv4::emulator::TensorCore::ampere;
  return dsv4::isa_check::on_emulator(options);
}

Table digests() {
  Table table;
  for (int which = 0; which < 2; ++which) {
    for (const Outcome& o : emulate(which)) {
      if (which == 1 && o.architecture >= 90) continue;
      table[fmt::format("{}/{}", kNames[which], o.name)] = fmt::format("{:016x}", digest(o.words));
    }
  }
  return table;
}

int record(const char* file) {
  std::ofstream out(file);
  out << "case\tdigest\n";
  for (const auto& [name, value] : digests()) out << name << '\t' << value << '\n';
  return out ? 0 : 2;
}

int compare_with(const char* file) {
  std::ifstream in(file);
  std::string name, value;
  if (!(in >> name >> value)) {
    fmt::print(stderr, "dsv4-isa-check: {} cannot be read\n", file);
    return 2;
  }
  Table recorded;
  while (in >> name >> value) recorded[name] = value;
  const Table now = digests();
  int differences = 0;
  for (const auto& [n, v] : now) {
    if (recorded.contains(n) && recorded[n] == v) continue;
    ++differences;
    fmt::print("{}: {} recorded, {} now\n", n, recorded.contains(n) ? recorded[n] : "nothing", v);
  }
  for (const auto& [n, v] : recorded) {
    if (now.contains(n)) continue;
    ++differences;
    fmt::print("{}: recorded, and no longer there\n", n);
  }
  fmt::print("emulator against {}: {} cases, {} differ\n", file, now.size(), differences);
  return differences == 0 ? 0 : 1;
}

// The first word that differs, and how many do.
bool same(const Outcome& gpu, const Outcome& emulated) {
  std::size_t count = 0, first = 0;
  for (std::size_t i = gpu.words.size(); i-- > 0;) {
    if (gpu.words[i] == emulated.words[i]) continue;
    ++count;
    first = i;
  }
  if (count == 0) return true;
  fmt::print("{}: {} of {} words differ, the first is {}: {:08x} on the GPU, {:08x} emulated\n",
             gpu.name, count, gpu.words.size(), first, gpu.words[first], emulated.words[first]);
  return false;
}

int compare_with_gpu() {
  const auto gpu = dsv4::isa_check::find_gpu();
  if (gpu.name.empty()) {
    fmt::print("GPU: SKIPPED ({})\n", gpu.reason);
    return 3;
  }
  const auto emulated = emulate(gpu.architecture >= 90 ? 0 : 1);
  const auto measured = dsv4::isa_check::on_gpu();
  int equal = 0, different = 0, skipped = 0;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    if (measured[i].words.empty()) {
      ++skipped;
    } else if (same(measured[i], emulated[i])) {
      ++equal;
    } else {
      ++different;
    }
  }
  fmt::print("{} (sm_{}) against the emulator: {} equal bit for bit, {} differ, {} not available\n",
             gpu.name, gpu.architecture, equal, different, skipped);
  return different == 0 ? 0 : 1;
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
      fmt::print(stderr, "usage: dsv4-isa-check [--recorded FILE | --record FILE] [--gpu]\n");
      return 2;
    }
  }
  try {
    int code = to_record != nullptr ? record(to_record) : 0;
    if (recorded != nullptr) code = compare_with(recorded);
    return gpu && code == 0 ? compare_with_gpu() : code;
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsv4-isa-check: {}\n", e.what());
    return 1;
  }
}
