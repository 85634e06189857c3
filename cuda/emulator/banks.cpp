// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulator/banks.hpp"

#include <algorithm>
#include <array>
#include <set>

namespace dsv4::emulator {

void Banks::note(unsigned block, unsigned thread, std::size_t offset, std::size_t bytes,
                 const char* operation, const Where& at) {
  OfWarp& warp = lines_[std::string(operation) + " at " + text(at)][block * 32 + thread / 32];
  const std::size_t instruction = warp.times[thread % 32]++;
  if (warp.accesses.size() <= instruction) warp.accesses.resize(instruction + 1);
  warp.accesses[instruction].push_back({thread % 32, offset, bytes});
}

std::map<std::string, int> Banks::turns() const {
  std::map<std::string, int> out;
  for (const auto& [line, warps] : lines_) {
    int& worst = out[line];
    for (const auto& [index, warp] : warps) {
      for (const auto& lanes : warp.accesses) {
        std::map<std::size_t, std::array<std::set<std::size_t>, 32>> words;  // by part of the warp
        for (const Touched& t : lanes) {
          auto& banks = words[t.lane * std::max<std::size_t>(t.bytes, 4) / 128];
          for (std::size_t w = t.offset / 4; 4 * w < t.offset + t.bytes; ++w) {
            banks[w % 32].insert(w);
            worst = std::max(worst, static_cast<int>(banks[w % 32].size()));
          }
        }
      }
    }
  }
  return out;
}

}  // namespace dsv4::emulator
