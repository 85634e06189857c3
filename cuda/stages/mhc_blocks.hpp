// SPDX-License-Identifier: Apache-2.0
// How many blocks of a cluster share the d columns of hyper-connections.
#pragma once

namespace dsv4::stages {

inline constexpr int kMhcWarpColumns = 32;  // of each stream, that a warp takes
inline constexpr int kMostMhcWarps = 16;    // of a block

// 0: none fit. Up to 8 are portable; 16 are for d = 7168, whose eighth of fn is larger than shared
// memory.
constexpr int mhc_blocks(int d) {
  for (const int blocks : {8, 4, 2, 1, 16}) {
    const int columns = blocks * kMhcWarpColumns;
    if (d % columns == 0 && d / columns <= kMostMhcWarps) return blocks;
  }
  return 0;
}

}  // namespace dsv4::stages
