// SPDX-License-Identifier: Apache-2.0
// The emulator against kernels with planted mistakes: each is found under every schedule, and the
// right kernel beside it is clean.
#include <span>

#include "tests/cuda/emulate.hpp"

namespace dsv4::cuda_test {
namespace {

constexpr Shape kTwoWarps{{1}, 64, 1024};

TEST(Emulator, EveryThreadRunsOnce) {
  GlobalMemory memory;
  const std::vector<std::uint32_t> zeros(3 * 2 * 64, 0);
  auto* count = memory.make<std::uint32_t>("count", std::span(zeros));
  const auto kernel = [&] {
    const int block = isa::block_y() * 3 + isa::block_x();
    isa::atomic_add(count + block * 64 + isa::thread(), 1);
  };

  launch({{3, 2}, 64}, {}, memory, kernel);

  for (std::size_t i = 0; i < zeros.size(); ++i) EXPECT_EQ(count[i], 1U);
}

TEST(Emulator, BarrierOrdersSharedMemory) {
  GlobalMemory memory;
  auto* out = memory.make<std::uint32_t>("out", 64);
  const auto kernel = [&] {
    auto* shared = isa::dynamic_shared<std::uint32_t>();
    isa::st_shared(shared + isa::thread(), static_cast<std::uint32_t>(isa::thread()));
    isa::sync();
    isa::st_global(out + isa::thread(), isa::ld_shared(shared + 63 - isa::thread()));
  };

  expect_clean(kTwoWarps, memory, kernel);

  for (std::uint32_t i = 0; i < 64; ++i) EXPECT_EQ(out[i], 63 - i);
}

TEST(Emulator, FindsMissingBarrier) {
  GlobalMemory memory;
  auto* out = memory.make<std::uint32_t>("out", 64);
  const auto kernel = [&] {
    auto* shared = isa::dynamic_shared<std::uint32_t>();
    isa::st_shared(shared + isa::thread(), 1U);
    isa::st_global(out + isa::thread(), isa::ld_shared(shared + (isa::thread() + 32) % 64));
  };

  for (const Options& way : every_way()) {
    const Report r = run(kTwoWarps, way, memory, kernel);
    EXPECT_TRUE(r.has(Kind::race) || r.has(Kind::uninitialised)) << name(way);
  }
  expect_found(
      Kind::race, kTwoWarps, memory,
      [&] {
        auto* shared = isa::dynamic_shared<std::uint32_t>();
        isa::st_shared(shared + isa::thread(), 1U);
        isa::sync();
        const auto v = isa::ld_shared(shared + (isa::thread() + 32) % 64);
        isa::st_shared(shared + isa::thread(), v);  // … while the neighbour still reads
      },
      "emulator_test.cpp");
}

TEST(Emulator, FindsRacesBetweenLanesOfOneWarp) {
  GlobalMemory memory;
  const Shape one{{1}, 32, 1024};
  const auto kernel = [&](bool synced) {
    auto* shared = isa::dynamic_shared<std::uint32_t>();
    isa::st_shared(shared + isa::thread(), 1U);
    isa::sync_warp();
    const auto v = isa::ld_shared(shared + (isa::thread() ^ 1));
    if (synced) {
      isa::sync_warp();
    } else {
      isa::shuffle_xor(v, 1);  // meets, but orders no memory
    }
    isa::st_shared(shared + isa::thread(), v);
  };

  expect_found(Kind::race, one, memory, [&] { kernel(false); });
  expect_clean(one, memory, [&] { kernel(true); });
}

// The Hadamard mistake of the field: a row transformed in place while others read it.
TEST(Emulator, FindsInPlaceRaceInGlobalMemory) {
  GlobalMemory memory;
  const std::vector<float> values(64, 1.0F);
  auto* row = memory.make<float>("row", std::span(values));
  auto* other = memory.make<float>("other", 64);
  const auto kernel = [&](float* to) {
    const float a = isa::ld_global(row + isa::thread());
    const float b = isa::ld_global(row + (isa::thread() ^ 32));
    isa::st_global(to + isa::thread(), a + b);
  };

  expect_found(
      Kind::race, kTwoWarps, memory, [&] { kernel(row); }, "may still be reading");
  expect_clean(kTwoWarps, memory, [&] { kernel(other); });
}

TEST(Emulator, FindsTwoBlocksThatWriteOnePlace) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 64);

  expect_found(
      Kind::race, {{2}, 64}, memory, [&] { isa::st_global(out + isa::thread(), 1.0F); },
      "another cluster");
  expect_clean({{2}, 32}, memory,
               [&] { isa::st_global(out + isa::block_x() * 32 + isa::thread(), 1.0F); });
}

TEST(Emulator, NeighboursInOneGranuleAreNoRace) {
  GlobalMemory memory;
  auto* out = memory.make<std::uint8_t>("out", 64);

  expect_clean(kTwoWarps, memory, [&] { isa::st_global(out + isa::thread(), std::uint8_t{1}); });
}

// ---- cp.async -------------------------------------------------------------------------------

struct CopyKernel {
  const float* in;
  float* out;
  bool waits = true, synchronises = true, overwrites = false;
  void operator()() const {
    auto* shared = isa::dynamic_shared<float>();
    const int t = isa::thread();
    for (int round = 0; round < 2; ++round) {
      isa::copy_async(shared + 4 * t, in + 4 * t);
      isa::copy_commit();
      if (waits) isa::copy_wait<0>();
      if (synchronises) isa::sync();
      const float v = isa::ld_shared(shared + 255 - 4 * t);
      if (!overwrites) isa::sync();
      isa::st_global(out + t, v);
    }
    isa::copy_wait<0>();
  }
};

class Copying : public testing::Test {
 protected:
  Copying() {
    for (int i = 0; i < 256; ++i) values.push_back(static_cast<float>(i));
    kernel.in = memory.constant("in", std::span<const float>(values));
    kernel.out = memory.make<float>("out", 64);
  }
  GlobalMemory memory;
  std::vector<float> values;
  CopyKernel kernel{};
};

TEST_F(Copying, CopiesArriveWhenWaitedFor) {
  expect_clean(kTwoWarps, memory, kernel);

  for (int t = 0; t < 64; ++t) EXPECT_EQ(kernel.out[t], static_cast<float>(255 - 4 * t));
}

TEST_F(Copying, FindsMissingWait) {
  kernel.waits = false;
  expect_found(Kind::race, kTwoWarps, memory, kernel, "in flight");
}

TEST_F(Copying, FindsMissingBarrierAfterTheWait) {
  kernel.synchronises = false;
  kernel.overwrites = true;
  expect_found(Kind::race, kTwoWarps, memory, kernel);
}

TEST_F(Copying, FindsTileOverwrittenWhileOthersRead) {
  kernel.overwrites = true;
  expect_found(Kind::race, kTwoWarps, memory, kernel, "may still be reading");
}

TEST_F(Copying, FindsExitWithCopiesInFlight) {
  expect_found(
      Kind::misuse, kTwoWarps, memory,
      [&] { isa::copy_async(isa::dynamic_shared<float>() + 4 * isa::thread(), kernel.in); },
      "nobody waited");
}

// ---- getting stuck --------------------------------------------------------------------------

TEST(Emulator, ReportsDeadlockWithWhoAndWhere) {
  GlobalMemory memory;

  expect_found(
      Kind::deadlock, kTwoWarps, memory,
      [] {
        if (isa::warp() == 0) isa::sync();
      },
      "32 threads, first thread 0 of block 0, wait in bar.sync 0 at emulator_test.cpp");
}

TEST(Emulator, ReportsLanesThatLeft) {
  GlobalMemory memory;

  expect_found(
      Kind::deadlock, kTwoWarps, memory,
      [] {
        if (isa::thread() < 40) isa::shuffle_xor(1, 1);
      },
      "shfl.bfly");
}

TEST(Emulator, ReportsDivergence) {
  GlobalMemory memory;

  expect_found(
      Kind::divergence, kTwoWarps, memory,
      [] {
        if (isa::lane() == 3) {
          isa::shuffle_xor(1, 1);
        } else {
          isa::ballot(true);
        }
      },
      "while other lanes are in");
}

TEST(Emulator, NamedBarriersOrderProducersBeforeConsumers) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 32);
  const auto kernel = [&](bool arrives) {
    auto* shared = isa::dynamic_shared<float>();
    if (isa::warp() == 0) {
      isa::st_shared(shared + isa::lane(), 2.0F);
      if (arrives) isa::barrier_arrive<1>(64);
    } else {
      if (arrives) isa::barrier_sync<1>(64);
      isa::st_global(out + isa::lane(), isa::ld_shared(shared + isa::lane()));
    }
  };

  expect_clean(kTwoWarps, memory, [&] { kernel(true); });
  for (const Options& way : every_way()) {
    EXPECT_FALSE(run(kTwoWarps, way, memory, [&] { kernel(false); }).clean()) << name(way);
  }
}

// ---- addresses ------------------------------------------------------------------------------

TEST(Emulator, ReportsAccessesOutOfBounds) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 63);
  const std::vector<float> fixed(64);
  const float* in = memory.constant("in", std::span<const float>(fixed));

  expect_found(Kind::out_of_bounds, kTwoWarps, memory,
               [&] { isa::st_global(out + isa::thread(), 1.0F); });
  expect_found(
      Kind::out_of_bounds, kTwoWarps, memory, [&] { isa::st_global(const_cast<float*>(in), 1.0F); },
      "constant in");
  expect_found(Kind::out_of_bounds, kTwoWarps, memory,
               [&] { isa::st_shared(isa::dynamic_shared<float>() + 256, 1.0F); });
}

TEST(Emulator, ReportsMisalignedAccesses) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 64);

  expect_found(Kind::misaligned, kTwoWarps, memory,
               [&] { isa::ld_global(reinterpret_cast<isa::Words4*>(out + 1)); });
}

TEST(Emulator, ReportsSharedMemoryThatNobodyWrote) {
  GlobalMemory memory;

  expect_found(Kind::uninitialised, kTwoWarps, memory,
               [] { isa::ld_shared(isa::dynamic_shared<float>() + isa::thread()); });
}

TEST(Emulator, StaticSharedMemoryIsOnePerBlockAndName) {
  GlobalMemory memory;
  auto* out = memory.make<int>("out", 128);
  struct Pair {
    int v[64];
  };

  launch({{2}, 64}, {}, memory, [&] {
    auto& a = isa::static_shared<Pair, 0>();
    auto& b = isa::static_shared<Pair, 1>();
    isa::st_shared(&a.v[isa::thread()], isa::thread());
    isa::st_shared(&b.v[isa::thread()], 100 + isa::block_x());
    isa::sync();
    const int other = 63 - isa::thread();
    isa::st_global(out + isa::block_x() * 64 + isa::thread(),
                   isa::ld_shared(&a.v[other]) + isa::ld_shared(&b.v[other]));
  });

  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[i], 63 - i % 64 + 100 + i / 64);
}

TEST(Emulator, ShuffledScheduleDependsOnItsSeedAlone) {
  GlobalMemory memory;
  auto* out = memory.make<std::uint32_t>("out", 64);
  const auto order = [&](std::uint64_t seed) {
    const std::vector<std::uint32_t> zero(1, 0);
    auto* ticket = memory.make<std::uint32_t>("ticket", std::span(zero));
    run(kTwoWarps, {Schedule::shuffled, Copies::late, TensorCore::hopper, seed}, memory,
        [&] { isa::st_global(out + isa::thread(), isa::atomic_add(ticket, 1)); });
    return std::vector<std::uint32_t>(out, out + 64);
  };

  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

}  // namespace
}  // namespace dsv4::cuda_test
