// SPDX-License-Identifier: Apache-2.0
// Writing traces: what is read back, the bytes, and what is left when writing fails.
#include <bit>
#include <csignal>
#include <filesystem>
#include <gtest/gtest.h>
#include <limits>
#include <numeric>
#include <sys/resource.h>
#include <unistd.h>

#include "core/error.hpp"
#include "golden/hdf5_sizes.hpp"
#include "golden/support.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::golden {
namespace {

using Shape = std::vector<std::int64_t>;
using Meta = TraceWriter::Meta;

TraceAttributes attributes() {
  TraceAttributes a;
  a.rounding = "exact";
  a.config_json = "{\"hidden_size\": 4}";
  a.producer = "naïve";
  a.seed = -3;
  return a;
}

std::vector<double> ramp(std::size_t n) {
  std::vector<double> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = 1.0 / static_cast<double>(i + 1);
  return v;
}

const std::vector<std::int32_t> kIds{3, 1, 4, 1, 5};

void write_sample(const std::filesystem::path& path) {
  TraceWriter w(path, attributes(), kIds);
  w.begin_call(0);
  w.write("embed", Shape{4, 300}, ramp(1200), Meta{"s,d", "fp64", "", "", {}});
  w.write("layers.2.attn.qr", Shape{2, 3}, ramp(6),
          Meta{"s,q", "fp64", "Attention.forward qr", "13", {1, 3}});
  const std::vector<std::int32_t> none, chosen{0, -1, 2, 3};
  w.write("layers.2.attn.indexer.topk_idxs", Shape{4, 0}, none, Meta{"s,k", "int", "", "", {}});
  w.write("layers.2.ffn.gate.indices", Shape{4, 1}, chosen, Meta{"s,a", "int", "", "", {}});
  w.begin_call(4);
  w.write("logits", Shape{7}, ramp(7), Meta{"v", "", "", "", {}});
  w.commit();
}

std::size_t files_in(const std::filesystem::path& dir) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(dir), {}));
}

TEST(TraceWriter, WhatIsWrittenIsReadBack) {
  const TemporaryDirectory dir;
  write_sample(dir.path() / "t.h5");

  const TraceFile f(dir.path() / "t.h5");
  EXPECT_EQ(f.attributes().producer, "naïve");
  EXPECT_EQ(f.attributes().seed, -3);
  EXPECT_EQ(f.attributes().arith, "");
  EXPECT_EQ(f.input_ids(), std::vector<std::int64_t>(kIds.begin(), kIds.end()));
  ASSERT_EQ(f.calls().size(), 2u);
  EXPECT_EQ(f.calls()[1].start_pos, 4);
  EXPECT_EQ(f.read(0, *f.find(0, "embed")), ramp(1200));
  EXPECT_EQ(f.find(0, "embed")->axes, "s,d");
  EXPECT_EQ(f.find(0, "layers.2.attn.qr")->rows, (Shape{1, 3}));
  EXPECT_EQ(f.find(0, "layers.2.attn.indexer.topk_idxs")->shape, (Shape{4, 0}));
  EXPECT_EQ(f.read_integers(0, *f.find(0, "layers.2.ffn.gate.indices")), (Shape{0, -1, 2, 3}));
  EXPECT_EQ(f.read(1, *f.find(1, "logits")), ramp(7));
  EXPECT_EQ(f.find(1, "embed"), nullptr);
}

TEST(TraceWriter, DatasetsKeepTheOrderOfWriting) {
  const TemporaryDirectory dir;
  TraceWriter w(dir.path() / "t.h5", attributes(), kIds);
  w.begin_call(0);
  for (const char* name : {"zeta", "alpha", "mid"}) w.write(name, Shape{1}, ramp(1), Meta{});
  w.commit();

  const TraceFile f(dir.path() / "t.h5");
  std::vector<std::string> names;
  for (const DatasetInfo& d : f.calls()[0].datasets) names.push_back(d.name);
  EXPECT_EQ(names, (std::vector<std::string>{"zeta", "alpha", "mid"}));
}

TEST(TraceWriter, TheSameValuesGiveTheSameBytes) {
  const TemporaryDirectory dir;
  write_sample(dir.path() / "a.h5");
  ::sleep(1);  // times are stored in whole seconds, if at all
  write_sample(dir.path() / "b.h5");

  EXPECT_EQ(bytes_of(dir.path() / "a.h5"), bytes_of(dir.path() / "b.h5"));
}

TEST(TraceWriter, SpecialValuesSurviveBitForBit) {
  const TemporaryDirectory dir;
  using Limits = std::numeric_limits<double>;
  const std::vector<double> values{-0.0,
                                   Limits::infinity(),
                                   -Limits::infinity(),
                                   Limits::quiet_NaN(),
                                   Limits::denorm_min(),
                                   Limits::max()};
  TraceWriter w(dir.path() / "t.h5", attributes(), kIds);
  w.begin_call(0);
  w.write("embed", Shape{6}, values, Meta{"s", "fp32", "", "", {}});
  w.commit();

  const TraceFile f(dir.path() / "t.h5");
  const auto read = f.read(0, *f.find(0, "embed"));
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(read[i]), std::bit_cast<std::uint64_t>(values[i])) << i;
  }
  EXPECT_EQ(f.find(0, "embed")->bits, 64);  // float32 would not hold them
}

TEST(TraceWriter, NarrowTypesAreStoredAsFloat32) {
  const TemporaryDirectory dir;
  TraceWriter w(dir.path() / "t.h5", attributes(), kIds);
  w.begin_call(0);
  w.write("embed", Shape{2}, std::vector<double>{0.5, 1.5}, Meta{"s", "bf16", "", "", {}});
  w.commit();

  const TraceFile f(dir.path() / "t.h5");
  EXPECT_EQ(f.find(0, "embed")->bits, 32);
  EXPECT_EQ(f.read(0, *f.find(0, "embed")), (std::vector<double>{0.5, 1.5}));
}

TEST(TraceWriter, ManyRowsAndManyChunksAreReadBack) {
  const TemporaryDirectory dir;
  std::vector<std::int32_t> ids(40000, 7);
  std::vector<std::int32_t> rows(40000);
  std::iota(rows.begin(), rows.end(), 0);
  const auto values = ramp(40000 * 30);
  TraceWriter w(dir.path() / "t.h5", attributes(), ids);
  w.begin_call(0);
  w.write("embed", Shape{40000, 30}, values, Meta{"s,d", "fp64", "", "", rows});
  w.commit();

  const TraceFile f(dir.path() / "t.h5");
  EXPECT_EQ(f.read(0, *f.find(0, "embed")), values);
  EXPECT_EQ(f.find(0, "embed")->rows->size(), 40000u);
}

TEST(TraceWriter, ADamagedValueIsNoticed) {
  const TemporaryDirectory dir;
  write_sample(dir.path() / "t.h5");
  std::string bytes = bytes_of(dir.path() / "t.h5");
  const std::size_t stream = bytes.find("\x78\x5e");  // the head of a zlib stream, level 4
  ASSERT_NE(stream, std::string::npos);
  bytes[stream + 40] = static_cast<char>(bytes[stream + 40] ^ 0x10);
  write_bytes(dir.path() / "t.h5", bytes);

  const TraceFile f(dir.path() / "t.h5");
  EXPECT_THROW(
      {
        for (const DatasetInfo& d : f.calls()[0].datasets) f.read(0, d);
      },
      TraceError);
}

TEST(TraceWriter, NothingAppearsBeforeCommit) {
  const TemporaryDirectory dir;
  {
    TraceWriter w(dir.path() / "t.h5", attributes(), kIds);
    w.begin_call(0);
    w.write("embed", Shape{4, 300}, ramp(1200), Meta{});
    EXPECT_FALSE(std::filesystem::exists(dir.path() / "t.h5"));
  }

  EXPECT_EQ(files_in(dir.path()), 0u);
}

TEST(TraceWriter, AnExistingFileIsKeptUntilCommit) {
  const TemporaryDirectory dir;
  write_bytes(dir.path() / "t.h5", "precious");
  { const TraceWriter w(dir.path() / "t.h5", attributes(), kIds); }

  EXPECT_EQ(bytes_of(dir.path() / "t.h5"), "precious");
}

TEST(TraceWriter, AnUnwritablePlaceIsAnIoError) {
  const TemporaryDirectory dir;

  EXPECT_THROW(TraceWriter(dir.path() / "none" / "t.h5", attributes(), kIds), IoError);
  EXPECT_THROW(TraceWriter(dir.path(), attributes(), kIds), IoError);
  EXPECT_THROW(TraceWriter("/dev/full", attributes(), kIds), IoError);
}

// A file size limit stands for a full disk. In a child process: the limit cannot be raised again.
TEST(TraceWriter, AFullDiskIsAnIoErrorAndLeavesNothing) {
  const TemporaryDirectory dir;
  const auto fill_disk = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{200000, 200000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int code = 1;
    try {
      TraceWriter w(dir.path() / "t.h5", attributes(), kIds);
      w.begin_call(0);
      for (int i = 0; i < 40; ++i) {
        w.write("layers." + std::to_string(i) + ".attn.qr", Shape{100, 100}, ramp(10000), Meta{});
      }
      w.commit();
    } catch (const IoError& e) {
      const std::string what = e.what();
      code = what.find("t.h5: ") != std::string::npos && what.find(".tmp") == std::string::npos ? 0
                                                                                                : 2;
    }
    std::exit(code == 0 && files_in(dir.path()) == 0 ? 0 : 3);
  };

  EXPECT_EXIT(fill_disk(), testing::ExitedWithCode(0), "");
}

TEST(ChunkShape, KeepsRowsWholeAndStaysNearOneMebibyte) {
  const Shape big{100000, 4, 7168}, small{3, 5}, wide{2, 1 << 20};

  EXPECT_EQ(hdf5::chunk_shape(big, 8), (Shape{4, 4, 7168}));
  EXPECT_EQ(hdf5::chunk_shape(small, 8), small);
  EXPECT_EQ(hdf5::chunk_shape(wide, 8), (Shape{1, 1 << 17}));
}

TEST(Sizes, AnImpossibleSizeIsRefused) {
  const Shape absurd{1 << 30, 1 << 30}, empty{0, std::int64_t{1} << 40};

  EXPECT_THROW(hdf5::checked_count(absurd, "here"), TraceError);
  EXPECT_EQ(hdf5::checked_count(empty, "here"), 0u);
  EXPECT_EQ(hdf5::checked_count({}, "here"), 1u);
}

}  // namespace
}  // namespace dsv4::golden
