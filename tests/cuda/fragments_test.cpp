// SPDX-License-Identifier: Apache-2.0
// Index maps on the host: each is a bijection, and what must not conflict in shared memory does
// not.
#include "cuda/isa/fragments.hpp"

#include <array>
#include <gtest/gtest.h>
#include <set>

namespace dsv4::isa {
namespace {

TEST(Fragments, EveryElementHasOneHolder) {
  for (const int bytes : {1, 2, 4}) {
    const int k = 32 / bytes;
    std::set<std::pair<int, int>> a, b;
    for (int lane = 0; lane < 32; ++lane) {
      for (int part = 0; part < 4 / bytes; ++part) {
        for (int i = 0; i < 4; ++i) {
          const Place p = mma_a(lane, i, part, bytes);
          EXPECT_TRUE(p.row >= 0 && p.row < 16 && p.column >= 0 && p.column < k);
          a.insert({p.row, p.column});
        }
        for (int i = 0; i < 2; ++i) {
          const Place p = mma_b(lane, i, part, bytes);
          EXPECT_TRUE(p.row >= 0 && p.row < k && p.column >= 0 && p.column < 8);
          b.insert({p.row, p.column});
        }
      }
    }
    EXPECT_EQ(a.size(), static_cast<std::size_t>(16 * k));
    EXPECT_EQ(b.size(), static_cast<std::size_t>(8 * k));
  }
}

TEST(Fragments, AccumulatorsCoverTheirTiles) {
  std::set<std::pair<int, int>> d, wide;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) d.insert({mma_d(lane, i).row, mma_d(lane, i).column});
  }
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < 64; ++i) {
      const Place p = wgmma_d(thread, i);
      EXPECT_TRUE(p.row < 64 && p.column < 128);
      wide.insert({p.row, p.column});
    }
  }
  EXPECT_EQ(d.size(), 128U);
  EXPECT_EQ(wide.size(), 64U * 128U);
}

// Worked from the PTX ISA's figures: thread 5 of a BF16 product.
TEST(Fragments, AgreeWithThePublishedTables) {
  EXPECT_EQ(mma_a(5, 3, 1, 2).row, 9);      // groupID 1, + 8
  EXPECT_EQ(mma_a(5, 3, 1, 2).column, 11);  // threadID_in_group 1: 2 + 1 + 8
  EXPECT_EQ(mma_b(5, 1, 0, 2).row, 10);
  EXPECT_EQ(mma_b(5, 1, 0, 2).column, 1);
  EXPECT_EQ(mma_d(5, 2).row, 9);
  EXPECT_EQ(mma_d(5, 2).column, 2);
  EXPECT_EQ(mma_a(5, 2, 3, 1).column, 4 + 3 + 16);  // E4M3: four to a register
}

TEST(Swizzle, IsABijectionOfChunks) {
  for (int r = 0; r < 16; ++r) {
    std::set<int> chunks;
    for (int c = 0; c < 8; ++c) chunks.insert(swizzle128(r, c));
    EXPECT_EQ(chunks.size(), 8U);
    EXPECT_LT(*chunks.rbegin(), 8);
  }
}

// ldmatrix reads 16 bytes of eight rows at a time: with the swizzle no bank is touched twice,
// without it all eight lanes share four banks.
TEST(Swizzle, EightRowsTouchEveryBankOnce) {
  const auto most = [](bool swizzled) {
    int worst = 0;
    for (int c = 0; c < 8; ++c) {
      std::array<int, 32> touched{};
      for (int r = 0; r < 8; ++r) {
        const int chunk = swizzled ? swizzle128(r, c) : c;
        for (int w = 0; w < 4; ++w)
          ++touched[static_cast<std::size_t>((r * 32 + chunk * 4 + w) % 32)];
      }
      for (const int n : touched) worst = std::max(worst, n);
    }
    return worst;
  };
  EXPECT_EQ(most(true), 1);
  EXPECT_EQ(most(false), 8);
}

}  // namespace
}  // namespace dsv4::isa
