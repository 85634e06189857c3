// SPDX-License-Identifier: Apache-2.0
// Planted mistakes of asynchronous copies, fences and clusters: each is found under every schedule,
// whether copies land late or early, and the right kernel beside it is clean.
#include <span>

#include "tests/cuda/emulate.hpp"

namespace dsv4::cuda_test {
namespace {

constexpr Shape kTwoWarps{{1}, 64, 1024};
constexpr Shape kTwoBlocks{{2}, 32, 256, 2};

// Two ways to break a rule show as two kinds: before the init, no mbarrier is there at all.
template <class Kernel>
void expect_not_clean(const Shape& shape, GlobalMemory& memory, Kernel&& kernel) {
  for (const Options& way : every_way()) {
    EXPECT_FALSE(run(shape, way, memory, kernel).clean()) << name(way);
  }
}

// ---- the source of a copy -------------------------------------------------------------------

TEST(AsyncSource, OfCpAsyncIsReadUntilTheWait) {
  GlobalMemory memory;
  const std::vector<float> ones(256, 1.0F);
  auto* in = memory.make<float>("in", std::span(ones));
  const auto kernel = [&](bool early) {
    auto* shared = isa::dynamic_shared<float>();
    const int t = isa::thread();
    if (t == 0) isa::copy_async(shared, in);
    isa::copy_commit();
    isa::sync();  // orders the issue, not the end
    if (t == 40 && early) isa::st_global(in, 7.0F);
    isa::copy_wait<0>();
    isa::sync();
    if (t == 40 && !early) isa::st_global(in, 7.0F);
  };

  expect_found(
      Kind::race, kTwoWarps, memory, [&] { kernel(true); }, "reading");
  expect_clean(kTwoWarps, memory, [&] { kernel(false); });
}

// One tile of 8 rows of 32 floats.
class AsyncTile : public testing::Test {
 protected:
  AsyncTile() {
    const std::vector<float> ones(256, 1.0F);
    in = memory.make<float>("in", std::span(ones));
    out = memory.make<float>("out", 256);
    source = isa::make_tensor_map({in, 32, 8, 4, 128, 32, 8, isa::Swizzle::bytes128});
    target = isa::make_tensor_map({out, 32, 8, 4, 128, 32, 8, isa::Swizzle::bytes128});
  }

  // Thread 0 makes a barrier for one arrival, and everybody knows.
  static std::uint64_t* ready_bar() {
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
    }
    isa::sync();
    return bar;
  }
  void load(float* tile, std::uint64_t* bar) const {
    if (isa::thread() != 0) return;
    isa::mbarrier_expect(bar, 1024);
    isa::tma_load(tile, &source, 0, 0, bar);
  }

  GlobalMemory memory;
  float *in, *out;
  isa::TensorMap source{}, target{};
};

TEST_F(AsyncTile, SourceOfALoadIsReadUntilItsBarrier) {
  const auto kernel = [&](bool early) {
    auto* bar = ready_bar();
    load(isa::dynamic_shared<float>(), bar);
    isa::sync();
    if (isa::thread() == 40 && early) isa::st_global(in, 7.0F);
    isa::mbarrier_wait(bar, 0);
    if (isa::thread() == 40 && !early) isa::st_global(in, 7.0F);
  };

  expect_found(Kind::race, kTwoWarps, memory, [&] { kernel(true); });
  expect_clean(kTwoWarps, memory, [&] { kernel(false); });
}

TEST_F(AsyncTile, ALoadThatNobodyWaitsForOutlivesItsBlock) {
  const auto kernel = [&](bool waits) {
    auto* bar = ready_bar();
    load(isa::dynamic_shared<float>(), bar);
    if (waits && isa::thread() == 33) isa::mbarrier_wait(bar, 0);
  };

  expect_found(
      Kind::race, kTwoWarps, memory, [&] { kernel(false); }, "may have ended");
  expect_clean(kTwoWarps, memory, [&] { kernel(true); });
}

// ---- stores of TMA --------------------------------------------------------------------------

enum class Store { right, target_read, target_written, tile_written };

TEST_F(AsyncTile, AStoreIsUnderWayUntilItsWait) {
  const auto kernel = [&](Store mistake) {
    auto* tile = isa::dynamic_shared<float>();
    for (int i = isa::thread(); i < 256; i += 64) isa::st_shared(tile + i, 3.0F);
    isa::fence_async_proxy();
    isa::sync();
    if (isa::thread() == 0) {
      isa::tma_store(&target, 0, 0, tile);
      isa::tma_store_commit();
    }
    isa::sync();
    if (isa::thread() == 40) {
      if (mistake == Store::target_read) isa::ld_global(out);
      if (mistake == Store::target_written) isa::st_global(out, 1.0F);
      if (mistake == Store::tile_written) isa::st_shared(tile, 1.0F);
    }
    isa::tma_store_wait<0>();
    isa::sync();
    EXPECT_TRUE(mistake != Store::right || isa::ld_global(out + isa::thread()) == 3.0F);
  };

  for (const Store mistake : {Store::target_read, Store::target_written, Store::tile_written}) {
    expect_found(Kind::race, kTwoWarps, memory, [&] { kernel(mistake); });
  }
  expect_clean(kTwoWarps, memory, [&] { kernel(Store::right); });
}

// ---- proxies --------------------------------------------------------------------------------

// Who fences, and when: only the thread that stored, after its store, for that memory, will do.
enum class Fenced { by_writer, not_at_all, before, by_issuer, other_memory, unordered };

template <class Make>
void proxy_fence(Fenced fenced, bool global, Make&& store) {
  const auto fence = [&](bool of_global) {
    if (of_global) {
      isa::fence_async_proxy_global();
    } else {
      isa::fence_async_proxy();
    }
  };
  if (fenced == Fenced::before) fence(global);
  store();
  if (fenced == Fenced::by_writer) fence(global);
  if (fenced == Fenced::other_memory) fence(!global);
  isa::sync();
  if (fenced == Fenced::by_issuer && isa::thread() == 0) fence(global);
  if (fenced == Fenced::unordered) fence(global);
}
constexpr Fenced kWrong[] = {Fenced::not_at_all, Fenced::before, Fenced::by_issuer,
                             Fenced::other_memory, Fenced::unordered};

TEST_F(AsyncTile, ALoadSeesGlobalStoresAfterAFenceOfTheWriter) {
  const auto kernel = [&](Fenced fenced) {
    auto* bar = ready_bar();
    proxy_fence(fenced, true,
                [&] { isa::st_global(in + std::ptrdiff_t{4} * isa::thread(), 2.0F); });
    load(isa::dynamic_shared<float>(), bar);
    isa::mbarrier_wait(bar, 0);
  };

  for (const Fenced wrong : kWrong) {
    expect_found(
        Kind::race, kTwoWarps, memory, [&] { kernel(wrong); }, "proxy fence");
  }
  expect_clean(kTwoWarps, memory, [&] { kernel(Fenced::by_writer); });
}

TEST_F(AsyncTile, ALoadOverSharedStoresNeedsAFenceOfTheWriter) {
  const auto kernel = [&](Fenced fenced) {
    auto* bar = ready_bar();
    auto* tile = isa::dynamic_shared<float>();
    proxy_fence(fenced, false,
                [&] { isa::st_shared(tile + std::ptrdiff_t{4} * isa::thread(), 2.0F); });
    load(tile, bar);
    isa::mbarrier_wait(bar, 0);
  };

  for (const Fenced wrong : kWrong) {
    expect_found(
        Kind::race, kTwoWarps, memory, [&] { kernel(wrong); }, "proxy fence");
  }
  expect_clean(kTwoWarps, memory, [&] { kernel(Fenced::by_writer); });
}

TEST_F(AsyncTile, AStoreOverGlobalStoresNeedsAFenceOfTheWriter) {
  const auto kernel = [&](Fenced fenced) {
    auto* tile = isa::dynamic_shared<float>();
    for (int i = isa::thread(); i < 256; i += 64) isa::st_shared(tile + i, 3.0F);
    isa::fence_async_proxy();
    proxy_fence(fenced, true,
                [&] { isa::st_global(out + std::ptrdiff_t{4} * isa::thread(), 2.0F); });
    if (isa::thread() == 0) {
      isa::tma_store(&target, 0, 0, tile);
      isa::tma_store_commit();
      isa::tma_store_wait<0>();
    }
  };

  for (const Fenced wrong : {Fenced::not_at_all, Fenced::before, Fenced::by_issuer}) {
    expect_found(
        Kind::race, kTwoWarps, memory, [&] { kernel(wrong); }, "proxy fence");
  }
  expect_clean(kTwoWarps, memory, [&] { kernel(Fenced::by_writer); });
}

// ---- the init of an mbarrier ----------------------------------------------------------------

TEST(MbarrierInit, IsOrderedBeforeEachUse) {
  GlobalMemory memory;
  const auto kernel = [&](bool syncs) {
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) isa::mbarrier_init(bar, 64);
    if (syncs) isa::sync();
    isa::mbarrier_arrive(bar);
    isa::mbarrier_wait(bar, 0);
  };

  expect_not_clean(kTwoWarps, memory, [&] { kernel(false); });
  expect_clean(kTwoWarps, memory, [&] { kernel(true); });
}

TEST_F(AsyncTile, TmaSeesAnMbarrierAfterAFenceOfItsInit) {
  enum class After { nothing, init_fence, proxy_fence };
  const auto kernel = [&](After after) {
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      if (after == After::init_fence) isa::fence_barrier_init();
      if (after == After::proxy_fence) isa::fence_async_proxy();
    }
    isa::sync();
    load(isa::dynamic_shared<float>(), bar);
    isa::mbarrier_wait(bar, 0);
  };

  expect_found(
      Kind::race, kTwoWarps, memory, [&] { kernel(After::nothing); }, "without a fence");
  expect_clean(kTwoWarps, memory, [&] { kernel(After::init_fence); });
  expect_clean(kTwoWarps, memory, [&] { kernel(After::proxy_fence); });
}

// ---- clusters -------------------------------------------------------------------------------

enum class Neighbour { right, no_barrier_before, no_barrier_after, no_init_fence };

TEST(ClusterLife, ANeighbourIsReadBetweenTwoBarriersOfTheCluster) {
  GlobalMemory memory;
  const auto kernel = [&](Neighbour mistake) {
    auto* mine = isa::dynamic_shared<float>() + isa::lane();
    isa::st_shared(mine, 1.0F);
    if (mistake != Neighbour::no_barrier_before) isa::cluster_sync();
    isa::ld_cluster(mine, isa::cluster_rank() ^ 1);
    if (mistake != Neighbour::no_barrier_after) isa::cluster_sync();
  };

  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_barrier_before); },
      "may not have begun");
  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_barrier_after); },
      "may have ended");
  expect_clean(kTwoBlocks, memory, [&] { kernel(Neighbour::right); });
}

TEST(ClusterLife, ANeighbourIsWrittenBetweenTwoBarriersOfTheCluster) {
  GlobalMemory memory;
  const auto kernel = [&](Neighbour mistake) {
    auto* mine = isa::dynamic_shared<float>() + isa::lane();
    if (mistake != Neighbour::no_barrier_before) isa::cluster_sync();
    isa::st_cluster(mine, isa::cluster_rank() ^ 1, 1.0F);
    if (mistake != Neighbour::no_barrier_after) isa::cluster_sync();
  };

  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_barrier_before); },
      "may not have begun");
  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_barrier_after); },
      "may have ended");
  expect_clean(kTwoBlocks, memory, [&] { kernel(Neighbour::right); });
}

// The neighbour's wait at its own barrier is the second barrier here: it ends after the arrival.
TEST(ClusterLife, ANeighboursMbarrierIsUsedAfterAFenceOfItsInit) {
  GlobalMemory memory;
  const auto kernel = [&](Neighbour mistake) {
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 32);
      if (mistake != Neighbour::no_init_fence) isa::fence_barrier_init();
    }
    isa::cluster_sync();
    isa::mbarrier_arrive_cluster(bar, isa::cluster_rank() ^ 1);
    if (mistake != Neighbour::no_barrier_after) isa::mbarrier_wait(bar, 0);
  };

  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_init_fence); },
      "fence of mbarrier inits");
  expect_found(
      Kind::race, kTwoBlocks, memory, [&] { kernel(Neighbour::no_barrier_after); },
      "may have ended");
  expect_clean(kTwoBlocks, memory, [&] { kernel(Neighbour::right); });
}

TEST_F(AsyncTile, MulticastFindsItsBlocksAlive) {
  const auto kernel = [&](Neighbour mistake) {
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
      isa::mbarrier_expect(bar, 1024);
    }
    if (mistake != Neighbour::no_barrier_before) isa::cluster_sync();
    if (isa::thread() == 0 && isa::cluster_rank() == 0) {
      isa::tma_load_multicast(isa::dynamic_shared<float>(), &source, 0, 0, bar, 3);
    }
    if (mistake != Neighbour::no_barrier_after) isa::mbarrier_wait(bar, 0);
  };
  const Shape shape{{2}, 32, 1024, 2};

  expect_not_clean(shape, memory, [&] { kernel(Neighbour::no_barrier_before); });
  expect_found(
      Kind::race, shape, memory, [&] { kernel(Neighbour::no_barrier_after); }, "may have ended");
  expect_clean(shape, memory, [&] { kernel(Neighbour::right); });
}

}  // namespace
}  // namespace dsv4::cuda_test
