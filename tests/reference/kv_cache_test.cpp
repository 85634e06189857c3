// SPDX-License-Identifier: Apache-2.0
// The ring of raw key/values, the compressed rows, the open group.
#include "reference/kv_cache.hpp"

#include <cmath>
#include <gtest/gtest.h>

#include "support/matrices.hpp"
#include "support/random_model.hpp"

namespace dsv4::reference {
namespace {

using testing::random_matrix;

TEST(WindowRing, KeepsTheLastRowsByAbsolutePosition) {
  WindowRing ring(3, 1);

  ring.write(Mat{{10}, {11}}, 0);
  ring.write(Mat{{12}, {13}}, 2);

  EXPECT_EQ(ring.read(1, 4), (Mat{{11}, {12}, {13}}));
}

TEST(WindowRing, TakesACallLongerThanItself) {
  WindowRing ring(3, 1);

  ring.write(Mat{{10}, {11}, {12}, {13}, {14}, {15}, {16}}, 5);

  EXPECT_EQ(ring.read(9, 12), (Mat{{14}, {15}, {16}}));
}

TEST(WindowRing, ReadsAnyPartOfWhatItHolds) {
  WindowRing ring(4, 2);
  const Mat kv = random_matrix(9, 2, "kv");

  for (Index p = 0; p < 9; ++p) {
    ring.write(kv.row(p), p);
    const Index oldest = std::max<Index>(0, p - 3);

    EXPECT_EQ(ring.read(oldest, p + 1), kv.middleRows(oldest, p + 1 - oldest)) << p;
    EXPECT_EQ(ring.read(p, p + 1), kv.row(p));
    EXPECT_EQ(ring.read(p, p).rows(), 0);
  }
}

TEST(WindowRing, ForgetsWhatStandsAWindowBack) {
  WindowRing ring(2, 1);
  ring.write(Mat{{1}, {2}, {3}}, 0);

  const Mat all = ring.read(1, 3);

  EXPECT_EQ(all, (Mat{{2}, {3}}));
  EXPECT_EQ(ring.read(0, 1)(0, 0), 3) << "row 0 holds position 2 now";
}

TEST(EntryRows, GrowInOrder) {
  EntryRows rows(2);

  rows.append(Mat{{1, 2}});
  rows.append(Mat(0, 2));
  rows.append(Mat{{3, 4}, {5, 6}});

  EXPECT_EQ(rows.count(), 3);
  EXPECT_EQ(Mat(rows.view()), (Mat{{1, 2}, {3, 4}, {5, 6}}));
}

TEST(EntryRows, TakeRowsOfALargerMatrix) {
  EntryRows rows(2);
  const Mat wide{{1, 2, 3, 4}, {5, 6, 7, 8}};

  rows.append(wide.middleCols(1, 2));

  EXPECT_EQ(Mat(rows.view()), (Mat{{2, 3}, {6, 7}}));
}

TEST(GroupState, WithOverlapHoldsTwoGroupsOfDoubleWidth) {
  const GroupState overlapping(4, 24);
  const GroupState plain(128, 24);

  EXPECT_EQ(overlapping.kv.rows(), 8);
  EXPECT_EQ(overlapping.kv.cols(), 48);
  EXPECT_EQ(plain.kv.rows(), 128);
  EXPECT_EQ(plain.kv.cols(), 24);
}

TEST(GroupState, StartsWithZerosThatWeighNothing) {
  const GroupState state(4, 3);

  EXPECT_TRUE((state.kv.array() == 0).all());
  EXPECT_TRUE((state.score.array() == -std::numeric_limits<Real>::infinity()).all());
}

TEST(KvCache, HasTheCompressorsThatTheRatiosAskFor) {
  const ModelConfig config = testing::small_config();  // ratios 0, 8, 4, 16, and 0 for MTP

  const KvCache cache(config);

  ASSERT_EQ(cache.blocks.size(), 5U);
  const std::vector<std::size_t> compressors = {0, 1, 1, 1, 0};
  const std::vector<std::size_t> indexers = {0, 0, 1, 0, 0};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(cache.blocks[i].compressor.size(), compressors[i]) << i;
    EXPECT_EQ(cache.blocks[i].indexer.size(), indexers[i]) << i;
  }
  EXPECT_EQ(cache.length, 0);
}

}  // namespace
}  // namespace dsv4::reference
