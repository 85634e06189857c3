// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <set>
#include <sstream>

#include "core/embedded.hpp"
#include "core/support.hpp"

namespace dsv4::testing {
namespace {

ModelConfig official(std::string_view name) {
  return parse_config(official_config(name), name).config;
}

std::map<std::string, std::string> as_map(const std::vector<TensorSpec>& specs) {
  std::map<std::string, std::string> out;
  for (const TensorSpec& t : specs)
    out[t.name] = std::string(name(t.dtype)) + " " + to_string(t.shape);
  return out;
}

std::uint64_t total_bytes(const std::vector<TensorSpec>& specs) {
  std::uint64_t total = 0;
  for (const TensorSpec& t : specs) {
    std::uint64_t n = size_of(t.dtype);
    for (const std::int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
    total += n;
  }
  return total;
}

TEST(Manifest, FlashHas69187TensorsAndProHas145116) {
  EXPECT_EQ(manifest(official("flash")).size(), 69187U);
  EXPECT_EQ(manifest(official("pro")).size(), 145116U);
}

TEST(Manifest, NamesAreUnique) {
  const auto specs = manifest(official("flash"));

  EXPECT_EQ(as_map(specs).size(), specs.size());
}

// The published sizes of the checkpoints, to the byte, as their indices state them.
TEST(Manifest, BytesAreThoseOfThePublishedCheckpoints) {
  EXPECT_EQ(total_bytes(manifest(official("flash"))), 159609485896ULL);
  EXPECT_EQ(total_bytes(manifest(official("pro"))), 864704792696ULL);
}

TEST(Manifest, EqualsThePublishedHeadersOfFlash) {
  const ModelConfig config = official("flash");
  const auto ours = as_map(manifest(config));
  std::set<std::string> listed;
  std::ifstream in(DSV4_SOURCE_DIR "/tests/data/flash_contract.tsv");

  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string tensor;
    std::string dtype;
    std::string shape;
    std::getline(fields, tensor, '\t');
    std::getline(fields, dtype, '\t');
    std::getline(fields, shape);
    const std::size_t at = tensor.find(".E.");
    for (std::int64_t e = 0; e < (at == std::string::npos ? 1 : config.n_routed_experts); ++e) {
      std::string full = tensor;
      if (at != std::string::npos) full.replace(at + 1, 1, std::to_string(e));
      const auto it = ours.find(full);
      ASSERT_NE(it, ours.end()) << full;
      EXPECT_EQ(it->second, dtype + " " + shape) << full;
      listed.insert(full);
    }
  }

  // Nothing that the published layers lack: of the listed blocks every tensor of ours is listed.
  ASSERT_GT(listed.size(), 10000U);
  for (const auto& [tensor, what] : ours) {
    const std::string block = tensor.substr(0, tensor.find('.', tensor.find('.') + 1));
    const bool of_listed_block = block == "layers.0" || block == "layers.2" ||
                                 block == "layers.3" || block == "layers.42" || block == "mtp.0" ||
                                 !tensor.starts_with("layers.");
    if (of_listed_block) {
      EXPECT_TRUE(listed.contains(tensor)) << tensor;
    }
  }
}

TEST(Manifest, BackboneOnlyHasNoMtpTensor) {
  ModelConfig config = official("flash");
  config.n_mtp_layers = 0;

  for (const TensorSpec& t : manifest(config)) EXPECT_FALSE(t.name.starts_with("mtp.")) << t.name;
}

TEST(Manifest, Bf16ModelHasNoScale) {
  ModelConfig config = official("flash");
  config.weight_format = config.expert_format = WeightFormat::bf16;
  config.n_layers = 3;

  for (const TensorSpec& t : block_manifest(config, 2, "layers.2")) {
    EXPECT_FALSE(t.name.ends_with(".scale")) << t.name;
  }
}

TEST(Manifest, ShapesPrintLikePython) {
  EXPECT_EQ(to_string(std::vector<std::int64_t>{1024, 4096}), "[1024, 4096]");
  EXPECT_EQ(to_string(std::vector<std::int64_t>{}), "[]");
}

}  // namespace
}  // namespace dsv4::testing
