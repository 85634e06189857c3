// SPDX-License-Identifier: Apache-2.0
// The index maps of kernels and of the operations under them: each takes every element once, and
// how often the banks of shared memory make a warp wait is stated. Maps that a kernel body holds
// are seen by running it on data that name their place.
#include <bit>
#include <map>
#include <numeric>
#include <set>
#include <span>

#include "core/dtype.hpp"
#include "cuda/kernels/compressor.hpp"
#include "cuda/kernels/linear_tiled.hpp"
#include "tests/cuda/emulate.hpp"

namespace dsv4::cuda_test {
namespace {

using isa::Bf16;

// ---- operations -----------------------------------------------------------------------------

// Eight addresses of 16 bytes: how many of them share a bank, at worst.
int turns_of_eight(const std::vector<int>& places) {
  std::map<int, std::set<int>> words;
  std::size_t worst = 0;
  for (const int at : places) {
    for (int w = at / 4; w < at / 4 + 4; ++w) {
      words[w % 32].insert(w);
      worst = std::max(worst, words[w % 32].size());
    }
  }
  return static_cast<int>(worst);
}

// A tile of 64 rows of 128 bytes: k = 0…3 parts of 32 bytes, two chunks each.
TEST(IndexMaps, DescriptorsOfWgmmaTakeEveryChunkOfATileOnce) {
  for (const bool swizzled : {true, false}) {
    std::set<int> places;
    for (int k = 0; k < 4; ++k) {
      const int start = 4096 + (swizzled ? 32 * k : 256 * k);
      for (int r = 0; r < 64; ++r) {
        for (int c = 0; c < 2; ++c) {
          const int at = isa::wgmma_place(start, 128, 1024, swizzled, r, c);
          EXPECT_TRUE(at >= 4096 && at < 4096 + 64 * 128 && at % 16 == 0) << at;
          places.insert(at);
          // What TMA and kernels wrote for this chunk of this row.
          if (swizzled) {
            EXPECT_EQ(at, 4096 + isa::tma_place(r, 32 * k + 16 * c, 128, true));
          }
        }
      }
    }
    EXPECT_EQ(places.size(), 64U * 8U);
  }
}

TEST(IndexMaps, WgmmaReadsEightRowsOfAChunkWithoutConflicts) {
  for (const bool swizzled : {true, false}) {
    for (int c = 0; c < 2; ++c) {
      std::vector<int> places;
      for (int r = 8; r < 16; ++r) {
        places.push_back(isa::wgmma_place(0, 128, 1024, swizzled, r, c));
      }
      EXPECT_EQ(turns_of_eight(places), 1);
    }
  }
}

TEST(IndexMaps, TmaPutsEveryByteOfABoxInOnePlace) {
  for (const auto& [row_bytes, swizzled] : {std::pair{128, true}, {128, false}, {48, false}}) {
    std::set<int> places;
    for (int r = 0; r < 16; ++r) {
      for (int b = 0; b < row_bytes; ++b) places.insert(isa::tma_place(r, b, row_bytes, swizzled));
    }
    EXPECT_EQ(places.size(), static_cast<std::size_t>(16 * row_bytes));
    EXPECT_EQ(*places.rbegin(), 16 * row_bytes - 1);
  }
}

TEST(IndexMaps, ColumnsOfATileAreReadWithoutConflictsOnlyWithTheSwizzle) {
  for (int chunk = 0; chunk < 8; ++chunk) {
    std::vector<int> with, without;
    for (int r = 0; r < 8; ++r) {
      with.push_back(isa::tma_place(r, 16 * chunk, 128, true));
      without.push_back(isa::tma_place(r, 16 * chunk, 128, false));
    }
    EXPECT_EQ(turns_of_eight(with), 1);
    EXPECT_EQ(turns_of_eight(without), 8);
  }
}

// What TMA and wgmma do on the emulator is these maps: the numbers of a box in their places.
TEST(IndexMaps, TmaOnTheEmulatorFollowsItsMap) {
  GlobalMemory memory;
  std::vector<std::uint32_t> numbers(16 * 32);
  std::iota(numbers.begin(), numbers.end(), 0U);
  const auto* in = memory.constant("in", std::span<const std::uint32_t>(numbers));
  auto* out = memory.make<std::uint32_t>("out", numbers.size());
  const isa::TensorMap map =
      isa::make_tensor_map({in, 32, 16, 4, 128, 32, 16, isa::Swizzle::bytes128});
  launch({{1}, 32, 2048}, {}, memory, [&] {
    auto* bar = &isa::static_shared<std::uint64_t>();
    auto* tile = isa::dynamic_shared<std::uint32_t>();
    if (isa::thread() == 0) {
      isa::mbarrier_init(bar, 1);
      isa::fence_barrier_init();
      isa::mbarrier_expect(bar, 2048);
      isa::tma_load(tile, &map, 0, 0, bar);
    }
    isa::sync();
    isa::mbarrier_wait(bar, 0);
    for (int i = isa::lane(); i < 512; i += 32) isa::st_global(out + i, isa::ld_shared(tile + i));
  });

  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 32; ++c) {
      ASSERT_EQ(out[isa::tma_place(r, 4 * c, 128, true) / 4], static_cast<unsigned>(32 * r + c));
    }
  }
}

// ---- rows of a warp -------------------------------------------------------------------------

template <int kC>
void expect_pairs_once() {
  GlobalMemory memory;
  const std::vector<std::uint32_t> zeros(kC / 2, 0U);
  auto* count = memory.make<std::uint32_t>("count", std::span(zeros));
  launch({{1}, 32}, {}, memory, [&] {
    for (int i = 0; i < kernels::kPairs<kC>; ++i) {
      if (kernels::pair_of(i) < kC / 2) isa::atomic_add(count + kernels::pair_of(i), 1U);
    }
  });
  EXPECT_EQ(std::vector<std::uint32_t>(count, count + kC / 2),
            std::vector<std::uint32_t>(kC / 2, 1U));
}

TEST(IndexMaps, LanesHoldEveryPairOfARowOnce) {
  expect_pairs_once<32>();
  expect_pairs_once<96>();
  expect_pairs_once<160>();
  expect_pairs_once<512>();
}

// Bytes that a kernel leaves alone: a row of each kind of fill differs there. Two lanes that write
// one byte would be a race.
template <class Insert>
std::set<int> untouched(int bytes, Insert&& insert) {
  std::vector<std::uint8_t> rows[2];
  for (const int fill : {0, 1}) {
    GlobalMemory memory;
    const std::vector<std::uint8_t> filled(static_cast<std::size_t>(bytes),
                                           fill != 0 ? 0xA5 : 0x5A);
    auto* to = memory.make<std::uint8_t>("row", std::span(filled));
    launch({{1}, 32}, {}, memory, [&] { insert(to); });
    rows[fill].assign(to, to + bytes);
  }
  std::set<int> out;
  for (int b = 0; b < bytes; ++b) {
    const auto at = static_cast<std::size_t>(b);
    if (rows[0][at] != rows[1][at]) out.insert(b);
  }
  return out;
}

template <int kC>
kernels::WarpRow<kC> some_row() {
  kernels::WarpRow<kC> x;
  for (int i = 0; i < kernels::kPairs<kC>; ++i) {
    for (int e = 0; e < 2; ++e) x.v[i][e] = static_cast<float>(kernels::pair_of(i) % 13 - 6 + e);
  }
  return x;
}

template <int kC, int kRope>
void expect_kv_row_full() {
  using Row = kernels::KvRow<kC, kRope>;
  const auto left = untouched(
      Row::bytes, [](std::uint8_t* to) { kernels::insert_row<kC, kRope>(to, some_row<kC>()); });
  std::set<int> padding;
  for (int b = Row::scales_at + Row::plain / 64; b < Row::bytes; ++b) padding.insert(b);
  EXPECT_EQ(left, padding) << kC;
}

TEST(IndexMaps, EveryByteOfACacheRowIsWrittenOnceButThePadding) {
  expect_kv_row_full<512, 64>();
  expect_kv_row_full<160, 32>();
  const auto left = untouched(kernels::IndexRow<128>::bytes, [](std::uint8_t* to) {
    kernels::insert_index_row<128>(to, some_row<128>());
  });
  EXPECT_EQ(left, std::set<int>{});
}

// ---- Hadamard -------------------------------------------------------------------------------

// Row j of the transform of the unit vectors: +-1 by the bits that i and j share (Sylvester's
// order).
template <class Transform>
void expect_sylvester(Transform&& transform) {
  constexpr int kN = 128;
  GlobalMemory memory;
  std::vector<std::uint16_t> units(kN * kN, 0);
  for (std::size_t j = 0; j < kN; ++j) units[j * kN + j] = encode_bf16(1.0F);
  const auto* in = memory.constant("in", std::span<const std::uint16_t>(units));
  auto* out = memory.make<std::uint16_t>("out", kN * kN);
  launch({{1}, 32}, {}, memory,
         [&] { transform(reinterpret_cast<const Bf16*>(in), reinterpret_cast<Bf16*>(out)); });

  for (unsigned j = 0; j < kN; ++j) {
    for (unsigned i = 0; i < kN; ++i) {
      ASSERT_EQ(decode_bf16(out[j * kN + i]), std::popcount(i & j) % 2 == 0 ? 1.0F : -1.0F)
          << i << " " << j;
    }
  }
}

TEST(IndexMaps, BothHadamardsHaveSylvestersOrder) {
  expect_sylvester([](const Bf16* in, Bf16* out) { kernels::hadamard<128>({in, out, 128, 1.0F}); });
  expect_sylvester([](const Bf16* in, Bf16* out) {
    for (int row = 0; row < 128; ++row) {
      auto x = kernels::load_row<128>(in + 128 * row);
      kernels::rotate_by_hadamard<128>(x, 1.0F);
      kernels::store_row<128>(out + 128 * row, x);
    }
  });
}

// ---- products -------------------------------------------------------------------------------

// x is a unit vector for each column, W[row, k] a code that names k: y says which column of W meets
// which of x. A scale of 1, and codes of 1…120, whose values differ.
template <class Kernel>
std::map<std::string, int> expect_columns_meet(const Shape& shape, Kernel&& kernel) {
  constexpr int kK = 128, kN = 32, kRows = 16;
  std::vector<std::uint8_t> w(kN * kK);
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<std::uint8_t>(1 + (i % kK * 7 + i / kK) % 120);
  }
  const std::vector<std::uint8_t> scale(1, 127);
  Options options;
  options.count_banks = true;
  std::map<std::string, int> turns;
  for (int first = 0; first < kK; first += kRows) {
    GlobalMemory memory;
    std::vector<std::uint16_t> x(kRows * kK, 0);
    for (std::size_t r = 0; r < kRows; ++r) {
      x[r * kK + static_cast<std::size_t>(first) + r] = encode_bf16(1.0F);
    }
    kernels::LinearArgs a{};
    a.x = reinterpret_cast<const Bf16*>(memory.constant("x", std::span<const std::uint16_t>(x)));
    a.w = memory.constant("w", std::span<const std::uint8_t>(w));
    a.w_scale = memory.constant("scale", std::span<const std::uint8_t>(scale));
    a.y = memory.make<float>("y", kRows * kN);
    a.y_bf16 = reinterpret_cast<Bf16*>(memory.make<std::uint16_t>("y_bf16", kRows * kN));
    a.m = kRows;
    a.n = a.y_stride = kN;
    a.k = a.x_stride = kK;
    turns = launch(shape, options, memory, [&] { kernel(a); }).turns;
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kN; ++n) {
        const auto at = static_cast<std::size_t>(n * kK + first + r);
        EXPECT_EQ(a.y[r * kN + n], decode_e4m3(w[at])) << "column " << first + r << " output " << n;
      }
    }
  }
  return turns;
}

// Turns of an operation in a file, at worst over its lines; 0: no such line.
int turns_in(const std::map<std::string, int>& turns, const std::string& begin) {
  int worst = 0;
  for (const auto& [line, n] : turns) {
    if (line.starts_with(begin)) worst = std::max(worst, n);
  }
  return worst;
}

TEST(IndexMaps, FragmentsOfLinearMeetColumnByColumn) {
  const auto turns = expect_columns_meet({{4}, 128}, kernels::linear<kernels::E4m3Weight>);

  // Four words a lane, one by one, at the end of a block: four lanes share a bank.
  EXPECT_EQ(turns_in(turns, "st.shared at linear.hpp"), 4);
  EXPECT_EQ(turns_in(turns, "ld.shared at linear.hpp"), 4);
}

TEST(IndexMaps, TilesOfLinearMeetColumnByColumnWithoutConflicts) {
  const auto turns = expect_columns_meet({{1}, 128}, kernels::linear_tiled<kernels::E4m3Weight>);

  EXPECT_EQ(turns_in(turns, "cp.async at linear_tiled.hpp"), 1);
  EXPECT_EQ(turns_in(turns, "ld.shared at linear_tiled.hpp"), 1);
}

// ---- the compressor -------------------------------------------------------------------------

TEST(IndexMaps, ConflictsOfTheCompressorsPooledRow) {
  constexpr int kC = 128;
  GlobalMemory memory;
  const std::vector<float> values(8 * 2 * kC, 0.5F);
  const float* any = memory.constant("any", std::span<const float>(values));
  kernels::CompressorArgs a{};
  a.kv = a.score = a.ape = a.kv_state = a.score_state = a.norm = a.frequencies = any;
  a.entries = memory.make<std::uint8_t>("entries", kernels::KvRow<kC, 64>::bytes);
  a.ratio = a.tokens = 4;
  a.eps = 1e-6F;
  Options options;
  options.count_banks = true;

  const auto turns =
      launch({{1}, 128}, options, memory, [&] { kernels::compress<true, false, kC, 64>(a); }).turns;

  EXPECT_EQ(turns_in(turns, "st.shared at compressor.hpp"), 1);
  // A lane reads both elements of a pair, one after the other: two lanes share a bank.
  EXPECT_EQ(turns_in(turns, "ld.shared at compressor.hpp"), 2);
}

// ---- the count itself -----------------------------------------------------------------------

TEST(Banks, CountTheTurnsOfKnownPatterns) {
  GlobalMemory memory;
  Options options;
  options.count_banks = true;
  const auto turns_of = [&](auto access) {
    const auto turns = launch({{1}, 32, 8192}, options, memory, [&] { access(); }).turns;
    return turns.begin()->second;
  };
  const auto words = [](int stride) {
    return [stride] {
      isa::st_shared(isa::dynamic_shared<std::uint32_t>() + stride * isa::lane(), 1U);
    };
  };

  EXPECT_EQ(turns_of(words(1)), 1);
  EXPECT_EQ(turns_of(words(2)), 2);
  EXPECT_EQ(turns_of(words(32)), 32);
  EXPECT_EQ(turns_of(words(33)), 1);
  EXPECT_EQ(turns_of([] {
              isa::st_shared(isa::dynamic_shared<isa::Words4>() + isa::lane(), isa::Words4{});
            }),
            1);
  EXPECT_EQ(turns_of([] {
              isa::st_shared(isa::dynamic_shared<isa::Words4>() + 8 * isa::lane(), isa::Words4{});
            }),
            8);
  EXPECT_EQ(turns_of([] {
              isa::atomic_add_shared(isa::dynamic_shared<std::uint32_t>(), 0U);  // one word for all
            }),
            1);
}

}  // namespace
}  // namespace dsv4::cuda_test
