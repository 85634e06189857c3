// SPDX-License-Identifier: Apache-2.0
// Bank conflicts of shared memory, counted where a kernel really goes. 32 banks of 4 bytes; a
// warp's access of 8 bytes a lane is made in two halves, of 16 bytes in four quarters; lanes that
// want the same word of a bank get it together, others wait for a turn.
//
// Lanes run one after the other here: the n-th time that a lane comes to a source line belongs to
// the n-th instruction of its warp there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cuda/emulator/report.hpp"

namespace dsv4::emulator {

class Banks {
 public:
  void note(unsigned block, unsigned thread, std::size_t offset, std::size_t bytes,
            const char* operation, const Where& at);
  // "ld.shared at linear_tiled.hpp:39" -> turns that a part of a warp needs, at worst; 1 is the
  // least.
  std::map<std::string, int> turns() const;

 private:
  struct Touched {
    unsigned lane;
    std::size_t offset, bytes;
  };
  struct OfWarp {
    std::map<unsigned, std::size_t> times;       // by lane
    std::vector<std::vector<Touched>> accesses;  // by instruction
  };
  std::map<std::string, std::map<unsigned, OfWarp>> lines_;  // by block and warp
};

}  // namespace dsv4::emulator
