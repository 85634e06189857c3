// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors.hpp"

#include <csignal>
#include <cstring>
#include <sys/resource.h>

#include "core/support.hpp"

namespace dsv4::testing {
namespace {

namespace fs = std::filesystem;

// Writes a file of this header and this many data bytes, and demands a WeightError.
void expect_refused(const std::string& header, std::size_t data_bytes,
                    std::initializer_list<std::string_view> fragments) {
  const ScratchDir dir;
  const fs::path file = dir / "bad.safetensors";
  write_file(file, safetensors_bytes(header, std::string(data_bytes, 'x')));
  expect_error<WeightError>([&] { const SafetensorsFile f(file); }, fragments);
  expect_error<WeightError>([&] { const SafetensorsFile f(file); }, {"bad.safetensors"});
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(Safetensors, ReadsWhatItWrote) {
  const ScratchDir dir;
  const std::vector<TensorSpec> specs = {{"bytes", DType::I8, {3, 5}},
                                         {"scalar", DType::F32, {}},
                                         {"empty", DType::BF16, {0, 4}},
                                         {"ids", DType::I64, {2, 2}}};

  write_safetensors(dir / "a.safetensors", specs,
                    [](const TensorSpec& t, std::span<std::byte> out, std::size_t) {
                      std::memset(out.data(), t.name[0], out.size());
                    });
  const SafetensorsFile file(dir / "a.safetensors");

  ASSERT_EQ(file.tensors().size(), specs.size());
  for (const TensorSpec& t : specs) {
    const TensorView& view = file.tensors().at(t.name);
    EXPECT_EQ(view.dtype, t.dtype);
    EXPECT_EQ(view.shape, t.shape);
    for (const std::byte b : view.bytes) EXPECT_EQ(b, static_cast<std::byte>(t.name[0]));
  }
  EXPECT_EQ(file.tensors().at("bytes").bytes.size(), 15U);
}

TEST(Safetensors, EveryTensorIsAligned) {
  const ScratchDir dir;
  const std::vector<TensorSpec> specs = {
      {"a", DType::I8, {3}}, {"b", DType::F32, {1}}, {"c", DType::I64, {1}}};

  write_safetensors(dir / "a.safetensors", specs,
                    [](const TensorSpec&, std::span<std::byte>, std::size_t) {});
  const SafetensorsFile file(dir / "a.safetensors");

  for (const auto& [name, view] : file.tensors()) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.bytes.data()) % size_of(view.dtype), 0U)
        << name;
  }
}

TEST(Safetensors, LargeTensorsAreFilledInSlices) {
  const ScratchDir dir;
  constexpr std::int64_t kBytes = (std::int64_t{64} << 20) + 1000;
  std::vector<std::size_t> offsets;

  write_safetensors(dir / "a.safetensors", {{"big", DType::U8, {kBytes}}},
                    [&](const TensorSpec&, std::span<std::byte> out, std::size_t offset) {
                      EXPECT_LE(out.size(), std::size_t{64} << 20);
                      offsets.push_back(offset);
                      out.front() = std::byte{7};
                    });

  EXPECT_EQ(offsets, (std::vector<std::size_t>{0, std::size_t{64} << 20}));
  EXPECT_EQ(SafetensorsFile(dir / "a.safetensors").tensors().at("big").bytes[std::size_t{64} << 20],
            std::byte{7});
}

TEST(Safetensors, TensorsOutliveTheFileObject) {
  const ScratchDir dir;
  write_file(dir / "a.safetensors", safetensors_bytes(one("\"U8\"", "[2]", "[0,2]"), "ab"));

  auto file = std::make_unique<SafetensorsFile>(dir / "a.safetensors");
  const SafetensorsFile copy = *file;
  file.reset();

  EXPECT_EQ(copy.tensors().at("t").bytes[1], std::byte{'b'});
}

TEST(Safetensors, MetadataIsIgnored) {
  const ScratchDir dir;
  write_file(dir / "a.safetensors", safetensors_bytes(R"({"__metadata__":{"format":"pt"}})", ""));

  EXPECT_TRUE(SafetensorsFile(dir / "a.safetensors").tensors().empty());
}

TEST(Safetensors, RefusesTruncatedFiles) {
  const ScratchDir dir;
  const fs::path file = dir / "cut.safetensors";
  const std::string whole = safetensors_bytes(one("\"U8\"", "[8]", "[0,8]"), "abcdefgh");
  for (const std::size_t n : {std::size_t{0}, std::size_t{4}, std::size_t{20}, whole.size() - 3}) {
    write_file(file, std::string_view(whole).substr(0, n));
    expect_error<WeightError>([&] { const SafetensorsFile f(file); },
                              {"cut.safetensors", "truncated", "expected"});
  }
}

TEST(Safetensors, RefusesOversizedHeader) {
  const ScratchDir dir;
  write_file(dir / "a.safetensors", "version https://git-lfs.github.com/spec/v1");

  expect_error<WeightError>([&] { const SafetensorsFile f(dir / "a.safetensors"); },
                            {"the header claims", "limit is 100000000", "LFS"});
}

TEST(Safetensors, RefusesHeadersThatAreNotJsonObjects) {
  expect_refused("{\"t\":", 0, {"not valid JSON"});
  expect_refused("[]", 0, {"not a JSON object"});
  expect_refused(R"({"t":3})", 0, {"tensor t", "expected dtype, shape and data_offsets"});
  expect_refused(R"({"t":{"dtype":"U8","shape":[1]}})", 1, {"tensor t", "data_offsets"});
}

TEST(Safetensors, RefusesUnknownDtype) {
  expect_refused(one("\"F8_E5M2\"", "[2]", "[0,2]"), 2,
                 {"tensor t", "unknown dtype \"F8_E5M2\"", "F8_E4M3"});
  expect_refused(one("7", "[2]", "[0,2]"), 2, {"tensor t", "unknown dtype 7"});
}

TEST(Safetensors, RefusesBadShapes) {
  expect_refused(one("\"U8\"", "[-2]", "[0,2]"), 2, {"tensor t", "shape is [-2]"});
  expect_refused(one("\"U8\"", "2", "[0,2]"), 2, {"tensor t", "shape is 2"});
  expect_refused(one("\"U8\"", "[1.5]", "[0,2]"), 2, {"tensor t", "shape is [1.5]"});
  expect_refused(one("\"F32\"", "[3]", "[0,2]"), 2,
                 {"tensor t", "F32 [3] needs 12 bytes", "hold 2"});
  expect_refused(one("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0, {"tensor t", "overflows"});
  expect_refused(one("\"U8\"", "[18446744073709551615]", "[0,2]"), 2, {"tensor t", "shape is"});
}

TEST(Safetensors, RefusesBadOffsets) {
  expect_refused(one("\"U8\"", "[2]", "[0,-2]"), 2, {"data_offsets are [0,-2]"});
  expect_refused(one("\"U8\"", "[2]", "[2,0]"), 2, {"[2, 0] run backwards"});
  expect_refused(one("\"U8\"", "[9]", "[0,9]"), 2,
                 {"ends at byte 9", "holds 2 bytes", "expected 7 more"});
  expect_refused(one("\"U8\"", "[2]", "[9223372036854775806,9223372036854775807]"), 2,
                 {"ends at byte"});
  expect_refused(one("\"U8\"", "[2]", "[0]"), 2, {"expected [begin, end]"});
}

TEST(Safetensors, RefusesOverlapsHolesAndTrailingBytes) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  expect_refused("{" + a + R"(,"b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})", 5,
                 {"tensor b [2, 5] overlaps tensor a [0, 4]"});
  expect_refused("{" + a + R"(,"b":{"dtype":"U8","shape":[3],"data_offsets":[6,9]}})", 9,
                 {"bytes 4 to 6", "before tensor b", "no tensor"});
  expect_refused("{" + a + "}", 7, {"3 bytes follow the last tensor", "expected 4", "found 7"});
}

TEST(Safetensors, RefusesDuplicateKeys) {
  const std::string t = R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_refused("{" + t + "," + t + "}", 0, {"\"t\" occurs twice"});
}

TEST(Safetensors, MissingFileAndDirectoryAreIoErrors) {
  const ScratchDir dir;

  expect_error<IoError>([&] { const SafetensorsFile f(dir / "no.safetensors"); },
                        {"no.safetensors", "No such file"});
  expect_error<IoError>([&] { const SafetensorsFile f(dir.path()); }, {"expected a regular file"});
}

void fill_zero(const TensorSpec&, std::span<std::byte> out, std::size_t) {
  std::memset(out.data(), 0, out.size());
}

TEST(SafetensorsWriter, FullDiskLeavesNoFile) {
  const ScratchDir dir;
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limited = before;
  limited.rlim_cur = 4096;
  ::setrlimit(RLIMIT_FSIZE, &limited);

  expect_error<IoError>(
      [&] {
        write_safetensors(dir / "a.safetensors", {{"t", DType::U8, {100000}}}, fill_zero);
      },
      {"a.safetensors", "cannot be written", "File too large"});

  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_NE(std::signal(SIGXFSZ, handler), SIG_ERR);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(SafetensorsWriter, UnwritablePlaceIsAnIoError) {
  const ScratchDir dir;

  expect_error<IoError>([&] { write_safetensors(dir / "no/a.safetensors", {}, fill_zero); },
                        {"no/a.safetensors", "cannot be created"});
}

TEST(SafetensorsWriter, FailingFillLeavesTheOldFile) {
  const ScratchDir dir;
  write_file(dir / "a.safetensors", "old");

  EXPECT_THROW(write_safetensors(dir / "a.safetensors", {{"t", DType::U8, {8}}},
                                 [](const TensorSpec&, std::span<std::byte>, std::size_t) {
                                   throw Error("stop");
                                 }),
               Error);

  EXPECT_EQ(read_file(dir / "a.safetensors"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator{}), 1);
}

TEST(SafetensorsWriter, RefusesTheSameNameTwice) {
  const ScratchDir dir;

  expect_error<WeightError>(
      [&] {
        write_safetensors(dir / "a.safetensors", {{"t", DType::U8, {1}}, {"t", DType::U8, {1}}},
                          fill_zero);
      },
      {"tensor t occurs twice"});
}

}  // namespace
}  // namespace dsv4::testing
