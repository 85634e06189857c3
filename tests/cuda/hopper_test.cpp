// SPDX-License-Identifier: Apache-2.0
// sm_90a on the emulator: the results of TMA and wgmma, and what happens to kernels that forget a
// wait, a fence or a byte.
#include <cmath>
#include <span>

#include "core/dtype.hpp"
#include "tests/cuda/emulate.hpp"

namespace dsv4::cuda_test {
namespace {

// One warpgroup: A[64, 64] and B[64, 64] in BF16 by TMA with the 128-byte swizzle, D = A B^T.
struct Mistake {
  int bytes = 16384;
  bool no_wait = false, no_fence = false, reads_early = false, overwrites = false;
};

struct Gemm {
  isa::TensorMap a, b;
  const isa::TensorMap *map_a, *map_b;
  float* out;
  Mistake mistake;

  void operator()() const {
    auto* shared = isa::dynamic_shared<std::uint8_t>();
    auto* bar = &isa::static_shared<std::uint64_t>();
    std::uint8_t* tile_a = shared;
    std::uint8_t* tile_b = shared + 8192;
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
    }
    isa::sync();
    if (isa::thread() == 0) {
      isa::mbarrier_expect(bar, static_cast<std::uint32_t>(mistake.bytes));
      isa::tma_load(tile_a, map_a, 0, 0, bar);
      isa::tma_load(tile_b, map_b, 0, 0, bar);
    }
    if (!mistake.no_wait) isa::mbarrier_wait(bar, 0);
    float d[32] = {};
    if (!mistake.no_fence) isa::wgmma_fence(d);
    for (int k = 0; k < 4; ++k) {
      isa::wgmma_bf16<64>(
          d, isa::wgmma_descriptor(tile_a + 32 * k, 16, 1024, isa::Swizzle::bytes128),
          isa::wgmma_descriptor(tile_b + 32 * k, 16, 1024, isa::Swizzle::bytes128), k > 0);
    }
    isa::wgmma_commit();
    if (mistake.overwrites && isa::thread() == 0) isa::st_shared(shared, std::uint8_t{0});
    if (!mistake.reads_early) isa::wgmma_wait<0>(d);
    for (int i = 0; i < 32; ++i) {
      const isa::Place p = isa::wgmma_d(isa::thread(), i);
      isa::st_global(out + p.row * 64 + p.column, d[i]);
    }
    if (mistake.reads_early) isa::wgmma_wait<0>(d);
    if (mistake.no_wait) isa::mbarrier_wait(bar, 0);
  }
};

class Hopper : public testing::Test {
 protected:
  static constexpr Shape kShape{{1}, 128, 16384};
  Hopper() {
    for (int i = 0; i < 64 * 64; ++i) {
      a.push_back(encode_bf16(static_cast<float>(i * 37 % 101 - 50)));
      b.push_back(encode_bf16(static_cast<float>(i * 53 % 89 - 44)));
    }
    gemm.map_a = &gemm.a;
    gemm.map_b = &gemm.b;
    gemm.a = isa::make_tensor_map({memory.constant("a", std::span<const std::uint16_t>(a)), 64, 64,
                                   2, 128, 64, 64, isa::Swizzle::bytes128});
    gemm.b = isa::make_tensor_map({memory.constant("b", std::span<const std::uint16_t>(b)), 64, 64,
                                   2, 128, 64, 64, isa::Swizzle::bytes128});
    gemm.out = memory.make<float>("out", 64 * 64);
  }
  GlobalMemory memory;
  std::vector<std::uint16_t> a, b;
  Gemm gemm{};
};

TEST_F(Hopper, TmaAndWgmmaMultiplyExactly) {
  expect_clean(kShape, memory, gemm);

  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < 64; ++j) {
      float sum = 0;  // small integers: exact
      for (std::size_t k = 0; k < 64; ++k) {
        sum += decode_bf16(a[i * 64 + k]) * decode_bf16(b[j * 64 + k]);
      }
      ASSERT_EQ(gemm.out[i * 64 + j], sum) << i << " " << j;
    }
  }
}

TEST_F(Hopper, FindsTileUsedBeforeItsBarrier) {
  gemm.mistake.no_wait = true;
  for (const Options& way : every_way()) {
    const Report r = run(kShape, way, memory, gemm);
    EXPECT_TRUE(r.has(Kind::race) || r.has(Kind::uninitialised)) << name(way) << r.text();
  }
}

TEST_F(Hopper, TooManyAnnouncedBytesNeverArrive) {
  gemm.mistake.bytes = 20480;
  expect_found(Kind::deadlock, kShape, memory, gemm, "mbarrier.try_wait");
}

TEST_F(Hopper, TooFewAnnouncedBytesLetTheOtherTileRace) {
  gemm.mistake.bytes = 8192;
  expect_found(Kind::race, kShape, memory, gemm);
}

TEST_F(Hopper, FindsMissingWgmmaFence) {
  gemm.mistake.no_fence = true;
  expect_found(Kind::misuse, kShape, memory, gemm, "wgmma.fence");
}

TEST_F(Hopper, AccumulatorsAreNotReadableBeforeTheWait) {
  gemm.mistake.reads_early = true;
  run(kShape, {}, memory, gemm);

  EXPECT_TRUE(std::isnan(gemm.out[0]));
}

TEST_F(Hopper, FindsOperandOverwrittenDuringWgmma) {
  gemm.mistake.overwrites = true;
  expect_found(Kind::race, kShape, memory, gemm, "still reading");
}

// A wait that names other registers gives back those alone.
TEST(Wgmma, GivesBackTheRegistersThatTheWaitNames) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 128);
  const auto kernel = [&](bool named) {
    auto* words = isa::dynamic_shared<std::uint32_t>();
    for (int i = isa::thread(); i < 1024; i += 128) isa::st_shared(words + i, 0x3F803F80U);
    isa::fence_async_proxy();
    isa::sync();
    const auto tile = isa::wgmma_descriptor(words, 128, 256, isa::Swizzle::none);
    float d[4] = {}, other[4] = {};
    isa::wgmma_fence(d);
    isa::wgmma_bf16<8>(d, tile, tile, false);
    isa::wgmma_commit();
    isa::wgmma_wait<0>(other);
    if (named) isa::wgmma_wait<0>(d);
    isa::st_global(out + isa::thread(), d[0]);
  };
  const Shape shape{{1}, 128, 4096};

  expect_clean(shape, memory, [&] { kernel(true); });
  EXPECT_EQ(out[5], 16.0F);
  run(shape, {}, memory, [&] { kernel(false); });
  EXPECT_TRUE(std::isnan(out[5]));
}

// st.shared, then wgmma: the async proxy sees it only after a proxy fence.
TEST(Wgmma, FindsStoresWithoutProxyFence) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 64 * 8);
  const Shape shape{{1}, 128, 4096};
  const auto kernel = [&](bool fenced) {
    auto* words = isa::dynamic_shared<std::uint32_t>();
    for (int i = isa::thread(); i < 1024; i += 128) isa::st_shared(words + i, 0x3F803F80U);
    if (fenced) isa::fence_async_proxy();
    isa::sync();
    float d[4] = {};
    isa::wgmma_fence(d);
    isa::wgmma_bf16<8>(d, isa::wgmma_descriptor(words, 128, 256, isa::Swizzle::none),
                       isa::wgmma_descriptor(words + 512, 128, 256, isa::Swizzle::none), false);
    isa::wgmma_commit();
    isa::wgmma_wait<0>(d);
    for (int i = 0; i < 4; ++i) {
      const isa::Place p = isa::wgmma_d(isa::thread(), i);
      isa::st_global(out + p.row * 8 + p.column, d[i]);
    }
  };

  expect_found(
      Kind::race, shape, memory, [&] { kernel(false); }, "proxy fence");
  expect_clean(shape, memory, [&] { kernel(true); });
  for (int i = 0; i < 64 * 8; ++i) ASSERT_EQ(out[i], 16.0F);
}

// A ring of two tiles: a producer warp and a consumer warp that talk by mbarriers alone.
TEST(Mbarrier, RingOrdersProducerAndConsumer) {
  GlobalMemory memory;
  std::vector<float> values(8 * 32);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto* in = memory.constant("in", std::span<const float>(values));
  const isa::TensorMap map = isa::make_tensor_map({in, 32, 8, 4, 128, 32, 1, isa::Swizzle::none});
  auto* out = memory.make<float>("out", 8 * 32);
  const auto kernel = [&](bool frees) {
    auto* tiles = isa::dynamic_shared<float>();
    struct Bars {
      std::uint64_t full[2], empty[2];
    };
    auto& bars = isa::static_shared<Bars>();
    if (isa::thread() == 0) {
      for (int s = 0; s < 2; ++s) {
        isa::mbarrier_init(&bars.full[s], 1);
        isa::mbarrier_init(&bars.empty[s], 32);
      }
      isa::fence_barrier_init();
    }
    isa::sync();
    if (isa::thread() == 32) {
      for (int i = 0; i < 8; ++i) {
        if (i >= 2 && frees) isa::mbarrier_wait(&bars.empty[i % 2], (i / 2 + 1) % 2);
        isa::mbarrier_expect(&bars.full[i % 2], 128);
        isa::tma_load(tiles + i % 2 * 32, &map, 0, i, &bars.full[i % 2]);
      }
    }
    if (isa::warp() == 0) {
      for (int i = 0; i < 8; ++i) {
        isa::mbarrier_wait(&bars.full[i % 2], i / 2 % 2);
        const float v = isa::ld_shared(tiles + i % 2 * 32 + isa::lane());
        isa::mbarrier_arrive(&bars.empty[i % 2]);
        isa::st_global(out + i * 32 + isa::lane(), v);
      }
    }
  };
  const Shape shape{{1}, 64, 1024};

  expect_clean(shape, memory, [&] { kernel(true); });
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], values[i]);
  for (const Options& way : every_way()) {
    EXPECT_FALSE(run(shape, way, memory, [&] { kernel(false); }).clean()) << name(way);
  }
}

TEST(Tma, FillsWithZerosOutsideAndStoresTheBoxInside) {
  GlobalMemory memory;
  const std::vector<float> ones(20 * 3, 1.0F);
  const auto* in = memory.constant("in", std::span<const float>(ones));
  auto* out = memory.make<float>("out", 32 * 4);
  const isa::TensorMap from =
      isa::make_tensor_map({in, 20, 3, 4, 80, 32, 4, isa::Swizzle::bytes128});
  const isa::TensorMap to =
      isa::make_tensor_map({out, 32, 4, 4, 128, 32, 4, isa::Swizzle::bytes128});
  const auto kernel = [&](bool waits) {
    auto* tile = isa::dynamic_shared<float>();
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
      isa::mbarrier_expect(bar, 512);
      isa::tma_load(tile, &from, 0, 0, bar);
      isa::mbarrier_wait(bar, 0);
      isa::tma_store(&to, 0, 0, tile);
      isa::tma_store_commit();
      if (waits) isa::tma_store_wait<0>();
    }
  };
  const Shape shape{{1}, 32, 1024};

  expect_clean(shape, memory, [&] { kernel(true); });
  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[i], i / 32 < 3 && i % 32 < 20 ? 1.0F : 0.0F);
  expect_found(Kind::misuse, shape, memory, [&] { kernel(false); });
}

TEST(Cluster, ReadsWritesAndSignalsItsNeighbour) {
  GlobalMemory memory;
  auto* out = memory.make<float>("out", 4 * 32);
  const auto kernel = [&](bool syncs) {
    auto* mine = isa::dynamic_shared<float>();
    const int rank = isa::cluster_rank();
    isa::st_shared(mine + isa::lane(), static_cast<float>(100 * isa::block_x() + isa::lane()));
    if (syncs) isa::cluster_sync();
    const float v = isa::ld_cluster(mine + isa::lane(), rank ^ 1);
    isa::cluster_sync();
    isa::st_global(out + isa::block_x() * 32 + isa::lane(), v);
  };
  const Shape shape{{4}, 32, 128, 2};

  expect_clean(shape, memory, [&] { kernel(true); });
  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[i], static_cast<float>(100 * (i / 32 ^ 1) + i % 32));
  for (const Options& way : every_way()) {
    EXPECT_FALSE(run(shape, way, memory, [&] { kernel(false); }).clean()) << name(way);
  }
}

TEST(Cluster, MulticastFillsEveryBlock) {
  GlobalMemory memory;
  std::vector<float> values(32 * 2);
  for (std::size_t i = 0; i < 64; ++i) values[i] = static_cast<float>(i);
  const auto* in = memory.constant("in", std::span<const float>(values));
  const isa::TensorMap map = isa::make_tensor_map({in, 32, 2, 4, 128, 32, 1, isa::Swizzle::none});
  auto* out = memory.make<float>("out", 2 * 64);
  const auto kernel = [&] {
    auto* tile = isa::dynamic_shared<float>();
    auto* bar = &isa::static_shared<std::uint64_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
      isa::mbarrier_expect(bar, 256);
    }
    isa::cluster_sync();
    const int rank = isa::cluster_rank();
    if (isa::thread() == 0) isa::tma_load_multicast(tile + 32 * rank, &map, 0, rank, bar, 3);
    isa::mbarrier_wait(bar, 0);
    for (int i = isa::lane(); i < 64; i += 32) {
      isa::st_global(out + rank * 64 + i, isa::ld_shared(tile + i));
    }
    isa::cluster_sync();
  };

  expect_clean({{2}, 32, 256, 2}, memory, kernel);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[i], static_cast<float>(i % 64));
}

TEST(Registers, SetmaxnregIsForWholeWarpgroups) {
  GlobalMemory memory;

  expect_clean({{1}, 256}, memory, [] {
    if (isa::thread() < 128) {
      isa::set_max_registers_dec<40>();
    } else {
      isa::set_max_registers_inc<232>();
    }
  });
  expect_found(
      Kind::deadlock, {{1}, 128}, memory,
      [] {
        if (isa::warp() == 0) isa::set_max_registers_dec<40>();
      },
      "setmaxnreg");
}

}  // namespace
}  // namespace dsv4::cuda_test
