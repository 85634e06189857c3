// SPDX-License-Identifier: Apache-2.0
// Reading traces that others wrote. The files under fixtures/ are made by h5py
// (fixtures/make_fixtures.py).
#include "golden/trace_file.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <limits>

#include "core/error.hpp"
#include "golden/support.hpp"

namespace dsv4::golden {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
const std::vector<double> kValues{0.5, -1.0, 2.0, 4096.0, kInf, -0.0};

std::vector<double> read(const TraceFile& f, std::string_view name) {
  const DatasetInfo* d = f.find(0, name);
  return d ? f.read(0, *d) : std::vector<double>{};
}

TEST(TraceFile, ReadsWhatH5pyWritesByDefault) {
  const TraceFile f(fixture("plain"));

  EXPECT_EQ(f.attributes().rounding, "exact");
  EXPECT_EQ(f.attributes().config_json, "{\"hidden_size\": 4}");
  EXPECT_EQ(f.input_ids(), (std::vector<std::int64_t>{5, 6, 7, 8}));
  ASSERT_EQ(f.calls().size(), 1u);
  EXPECT_EQ(f.calls()[0].start_pos, 0);
  EXPECT_EQ(read(f, "embed"), kValues);
  EXPECT_TRUE(std::signbit(read(f, "embed")[5]));
}

TEST(TraceFile, ReadsEveryWidthAndByteOrder) {
  const TraceFile f(fixture("number_formats"));

  for (const char* name :
       {"float2little", "float2big", "float4little", "float4big", "float8little", "float8big"}) {
    EXPECT_EQ(read(f, name), kValues) << name;
  }
  for (const char* name : {"int_i1", "int_u1", "int_i2", "int_u4", "int_i8"}) {
    ASSERT_NE(f.find(0, name), nullptr) << name;
    EXPECT_TRUE(f.find(0, name)->integer);
    EXPECT_EQ(f.read_integers(0, *f.find(0, name)), (std::vector<std::int64_t>{1, 2, 100})) << name;
  }
  EXPECT_EQ(f.find(0, "float2big")->bits, 16);
  EXPECT_EQ(f.attributes().seed, 7);
}

TEST(TraceFile, ReadsEveryLayout) {
  const TraceFile f(fixture("layouts"));

  for (const char* name : {"contiguous", "chunked", "growing", "compact"})
    EXPECT_EQ(read(f, name), kValues) << name;
  EXPECT_EQ(read(f, "scalar"), std::vector<double>{2.5});
  EXPECT_TRUE(f.find(0, "scalar")->shape.empty());
  EXPECT_EQ(f.find(0, "no_columns")->shape, (std::vector<std::int64_t>{3, 0}));
  EXPECT_TRUE(f.read_integers(0, *f.find(0, "no_columns")).empty());
}

TEST(TraceFile, IgnoresTextAndWhatLiesOutsideCalls) {
  const TraceFile f(fixture("extras"));

  ASSERT_EQ(f.calls()[0].datasets.size(), 2u);
  EXPECT_EQ(f.find(0, "embed")->axes, "s,d");
  EXPECT_EQ(f.find(0, "embed")->dtype, "fp64");
  EXPECT_EQ(f.find(0, "remark"), nullptr);
}

TEST(TraceFile, AcceptsAFlatNameWithDots) {
  const TraceFile f(fixture("extras"));

  EXPECT_EQ(read(f, "layers.2.attn.qr"), kValues);
}

TEST(TraceFile, SortsCallsByNumber) {
  const TraceFile f(fixture("unordered_calls"));

  std::vector<std::string> names;
  for (const CallInfo& call : f.calls()) names.push_back(call.name);
  EXPECT_EQ(names, (std::vector<std::string>{"0000", "0001", "0002", "0010"}));
}

TEST(TraceFile, ReadsPositionsAndRows) {
  const TraceFile f(fixture("positions_and_rows"));

  EXPECT_EQ(f.calls()[0].positions, (std::vector<std::int64_t>{1, 3, 9}));
  EXPECT_EQ(f.calls()[0].start_pos, 1);
  EXPECT_EQ(f.find(0, "embed")->rows, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(f.find(0, "positions"), nullptr);
}

TEST(TraceFile, IntegersAreNotReadFromFloats) {
  const TraceFile f(fixture("plain"));

  EXPECT_THROW(f.read_integers(0, *f.find(0, "embed")), TraceError);
}

struct Refusal {
  const char* name;
  const char* message;  // a part of it
};

class BadTrace : public testing::TestWithParam<Refusal> {};

TEST_P(BadTrace, IsRefusedWithPlaceAndReason) {
  const std::string path = fixture(GetParam().name);

  try {
    const TraceFile f(path);
    FAIL() << path << " was accepted";
  } catch (const TraceError& e) {
    EXPECT_NE(std::string(e.what()).find(GetParam().message), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(GetParam().name), std::string::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, BadTrace,
    testing::Values(
        Refusal{"bad_schema", "expected attribute dsv4_schema = \"trace/1\", found \"trace/2\""},
        Refusal{"bad_no_schema", "found no such attribute"},
        Refusal{"bad_schema_type", "expected text"}, Refusal{"bad_no_config", "config_json"},
        Refusal{"bad_rounding", "found \"approximate\""},
        Refusal{"bad_seed", "expected one integer"},
        Refusal{"bad_ids_float", "1-d array of integers"}, Refusal{"bad_ids_2d", "[1, 3]"},
        Refusal{"bad_ids_scalar", "shape []"}, Refusal{"bad_no_input_ids", "input_ids"},
        Refusal{"bad_no_inputs", "'inputs'"}, Refusal{"bad_no_calls", "'calls'"},
        Refusal{"bad_no_start", "found neither"}, Refusal{"bad_start_negative", "-1"},
        Refusal{"bad_start_float", "expected integers"},
        Refusal{"bad_start_text", "expected integers"},
        Refusal{"bad_positions", "ascending positions"},
        Refusal{"bad_positions_contradict", "ascending positions"},
        Refusal{"bad_call_name", "'prefill'"}, Refusal{"bad_call_twice", "call 0 occurs twice"},
        Refusal{"bad_call_dataset", "'0001'"}, Refusal{"bad_call_link", "'0001'"},
        Refusal{"bad_rows_count", "found 1 for shape [3, 2]"},
        Refusal{"bad_rows_order", "found 1 after 2"}, Refusal{"bad_rows_twice", "found 1 after 1"},
        Refusal{"bad_rows_negative", "found -1"}, Refusal{"bad_rows_range", "found 4"},
        Refusal{"bad_rows_float", "expected integers"}, Refusal{"bad_rows_scalar", "shape []"},
        Refusal{"bad_dtype", "found \"float32\""}, Refusal{"bad_soft_link", "is a link"},
        Refusal{"bad_external_link", "is a link"}, Refusal{"bad_cycle", "occurs twice"},
        Refusal{"bad_deep", "nested too deeply"}, Refusal{"bad_tap_twice", "norm.out occurs twice"},
        Refusal{"bad_absurd_shape", "absurd"}),
    [](const auto& i) { return std::string(i.param.name); });

class UnreadableValues : public testing::TestWithParam<Refusal> {};

TEST_P(UnreadableValues, AreRefusedWhenTheyAreRead) {
  const TraceFile f(fixture(GetParam().name));

  try {
    f.read(0, *f.find(0, "embed"));
    FAIL() << "was read";
  } catch (const TraceError& e) {
    EXPECT_NE(std::string(e.what()).find(GetParam().message), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("embed"), std::string::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, UnreadableValues,
                         testing::Values(Refusal{"unreadable_never_written", "never written"},
                                         Refusal{"unreadable_huge", "cannot come from"},
                                         Refusal{"unreadable_external", "another file"},
                                         Refusal{"unreadable_virtual", "another file"},
                                         Refusal{"unreadable_filter", "filter"}),
                         [](const auto& i) { return std::string(i.param.name); });

TEST(TraceFile, EveryBadFixtureIsTested) {
  std::size_t bad = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fixture_directory())) {
    bad += entry.path().filename().string().starts_with("bad_") ? 1 : 0;
  }

  EXPECT_EQ(bad, 36u) << "add the new fixture to the list above";
}

TEST(TraceFile, ATruncatedFileIsRefusedAtEveryLength) {
  const TemporaryDirectory dir;
  const std::string whole = bytes_of(fixture("extras"));

  for (std::size_t length = 0; length < whole.size(); length += 61) {
    write_bytes(dir.path() / "cut.h5", whole.substr(0, length));
    EXPECT_THROW(TraceFile(dir.path() / "cut.h5"), TraceError) << length;
  }
}

TEST(TraceFile, AForeignFileIsRefused) {
  const TemporaryDirectory dir;
  write_bytes(dir.path() / "text.h5", "this is not HDF5");

  EXPECT_THROW(TraceFile(dir.path() / "text.h5"), TraceError);
  EXPECT_THROW(TraceFile(dir.path() / "none.h5"), IoError);
  EXPECT_THROW(TraceFile(dir.path()), IoError);
}

}  // namespace
}  // namespace dsv4::golden
