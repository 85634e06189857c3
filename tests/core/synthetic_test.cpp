// SPDX-License-Identifier: Apache-2.0
#include "core/synthetic.hpp"

#include <cmath>
#include <set>

#include "core/support.hpp"
#include "core/weights.hpp"

namespace dsv4::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

SyntheticOptions seeded(std::uint64_t seed) {
  SyntheticOptions o;
  o.seed = seed;
  return o;
}

ModelConfig preset_config(std::string_view name) {
  return parse_config(synthetic_preset(name).dump(), name).config;
}

std::vector<std::byte> generate(const ModelConfig& config, const TensorSpec& spec) {
  std::size_t n = size_of(spec.dtype);
  for (const std::int64_t d : spec.shape) n *= static_cast<std::size_t>(d);
  std::vector<std::byte> out(n);
  SyntheticWeights(config, 1, false).fill(spec, out, 0);
  return out;
}

TEST(Synthetic, EveryPresetIsAValidConfig) {
  for (const std::string_view name : synthetic_presets()) {
    const ParsedConfig parsed = parse_config(synthetic_preset(name).dump(), name);

    EXPECT_TRUE(parsed.warnings.empty()) << name;
  }
  expect_error<UsageError>([] { synthetic_preset("huge"); },
                           {"unknown preset \"huge\"", "flash-layer"});
}

// What the official kernels demand: whole blocks of quantised activations.
TEST(Synthetic, PresetsCanBeRunByTheOfficialCode) {
  for (const std::string_view name : synthetic_presets()) {
    const ModelConfig c = preset_config(name);
    for (const std::int64_t inputs :
         {c.dim, c.q_lora_rank, c.o_groups * c.o_lora_rank, c.moe_inter_dim}) {
      EXPECT_EQ(inputs % 128, 0) << name;
    }
    EXPECT_EQ((c.head_dim - c.rope_head_dim) % 64, 0) << name;
    EXPECT_EQ(c.index_head_dim % 32, 0) << name;
  }
}

TEST(Synthetic, LayerPresetsHaveTrueSizes) {
  const ModelConfig flash = preset_config("flash-layer");
  const ModelConfig pro = preset_config("pro-layer");

  EXPECT_EQ(flash.dim, 4096);
  EXPECT_EQ(flash.n_heads, 64);
  EXPECT_EQ(flash.moe_inter_dim, 2048);
  EXPECT_EQ(pro.dim, 7168);
  EXPECT_EQ(pro.n_heads, 128);
  EXPECT_EQ(pro.index_topk, 1024);
  EXPECT_EQ(flash.compress_ratios, std::vector<std::int64_t>{4});
}

TEST(Synthetic, TinyOpensWithoutWarning) {
  const ScratchDir dir;

  const WrittenCheckpoint report =
      write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "m", seeded(1));
  const Checkpoint model = Checkpoint::open(dir / "m");

  EXPECT_TRUE(model.warnings().empty());
  EXPECT_EQ(model.tensor_count(), report.tensors);
  EXPECT_EQ(model.total_bytes(), report.bytes);
  EXPECT_LT(report.bytes, 16U << 20);
}

TEST(Synthetic, SameSeedSameBytesWhateverTheShards) {
  const ScratchDir dir;
  SyntheticOptions sharded = seeded(1);
  sharded.shard_bytes = 3 << 20;
  write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "a", seeded(1));
  const WrittenCheckpoint report =
      write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "b", sharded);
  write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "c", seeded(2));

  const Checkpoint a = Checkpoint::open(dir / "a");
  const Checkpoint b = Checkpoint::open(dir / "b");

  EXPECT_GT(report.shards, 2U);
  for (const auto& [name, view] : a.tensors()) {
    ASSERT_TRUE(std::ranges::equal(view.bytes, b.tensor(name).bytes)) << name;
  }
  EXPECT_NE(a.fingerprint(), Checkpoint::open(dir / "c").fingerprint());
}

TEST(Synthetic, SlicesJoinToTheWhole) {
  const ModelConfig config = preset_config("tiny");
  for (const TensorSpec& spec : block_manifest(config, 2, "layers.2")) {
    const std::vector<std::byte> whole = generate(config, spec);
    const std::size_t cut = whole.size() / 2 / 8 * 8;
    std::vector<std::byte> parts(whole.size());
    const SyntheticWeights weights(config, 1, false);
    weights.fill(spec, std::span(parts).first(cut), 0);
    weights.fill(spec, std::span(parts).subspan(cut), cut);

    ASSERT_EQ(parts, whole) << spec.name;
  }
}

TEST(Synthetic, WeightsHaveTheVarianceThatKeepsActivationsNearOne) {
  const ScratchDir dir;
  write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "m", seeded(3));
  const Checkpoint model = Checkpoint::open(dir / "m");
  for (const char* stem :
       {"layers.2.attn.wq_a", "layers.2.attn.wq_b", "layers.2.attn.wkv", "layers.2.attn.wo_a",
        "layers.2.attn.indexer.wq_b", "layers.2.attn.compressor.wkv", "mtp.0.h_proj"}) {
    const Weight w = model.matrix(stem);
    Mat m(w.rows, w.cols);
    dequantize(w, 0, w.rows, 0, w.cols, m.data(), w.cols);
    const double gain = static_cast<double>(m.squaredNorm()) / static_cast<double>(w.rows);

    EXPECT_GT(gain, 0.4) << stem;
    EXPECT_LT(gain, 2.5) << stem;
  }
}

TEST(Synthetic, E4m3CodesAreAllUsedButNaN) {
  const auto bytes =
      generate(preset_config("tiny"), {"layers.0.attn.wq_b.weight", DType::F8_E4M3, {960, 384}});
  const std::set<std::byte> seen(bytes.begin(), bytes.end());

  EXPECT_EQ(seen.size(), 254U);
  EXPECT_FALSE(seen.contains(std::byte{0x7F}));
  EXPECT_FALSE(seen.contains(std::byte{0xFF}));
}

TEST(Synthetic, ScalesDifferFromBlockToBlock) {
  const auto bytes =
      generate(preset_config("tiny"), {"layers.0.attn.wq_b.scale", DType::F8_E8M0, {8, 3}});

  EXPECT_EQ(std::set<std::byte>(bytes.begin(), bytes.end()).size(), 3U);
}

TEST(Synthetic, HashTablesNameEveryExpertAndNeverOneTwice) {
  ModelConfig config = preset_config("tiny");
  config.n_routed_experts = 60;
  const TensorSpec spec = {"layers.0.ffn.gate.tid2eid", DType::I64, {200, 3}};
  const auto bytes = generate(config, spec);
  const auto* ids = reinterpret_cast<const std::int64_t*>(bytes.data());
  std::set<std::int64_t> seen;

  for (std::size_t token = 0; token < 200; ++token) {
    const std::set<std::int64_t> row(ids + 3 * token, ids + 3 * token + 3);
    EXPECT_EQ(row.size(), 3U);
    seen.insert(row.begin(), row.end());
  }

  EXPECT_EQ(seen.size(), 60U);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 59);
}

TEST(Synthetic, NormsHaveBothSigns) {
  const auto bytes = generate(preset_config("tiny"), {"norm.weight", DType::BF16, {256}});
  int negative = 0;
  for (std::size_t i = 1; i < bytes.size(); i += 2)
    negative += (bytes[i] & std::byte{0x80}) != std::byte{0} ? 1 : 0;

  EXPECT_GT(negative, 0);
  EXPECT_LT(negative, 64);
}

TEST(Synthetic, TiesMakeTwinsOfExperts) {
  const ModelConfig config = preset_config("tiny");
  std::vector<std::byte> rows(std::size_t{8} * 256 * 2);
  std::vector<std::byte> bias(std::size_t{8} * 4);
  const SyntheticWeights weights(config, 1, true);

  weights.fill({"layers.3.ffn.gate.weight", DType::BF16, {8, 256}}, rows, 0);
  weights.fill({"layers.3.ffn.gate.bias", DType::F32, {8}}, bias, 0);

  EXPECT_TRUE(std::equal(rows.begin(), rows.begin() + 512, rows.begin() + 512));
  EXPECT_FALSE(std::equal(rows.begin(), rows.begin() + 512, rows.begin() + 1024));
  EXPECT_TRUE(std::equal(bias.begin(), bias.begin() + 4, bias.begin() + 4));
}

TEST(Synthetic, NeverOverwrites) {
  const ScratchDir dir;
  write_file(dir / "precious", "x");

  expect_error<UsageError>(
      [&] { write_synthetic_checkpoint(synthetic_preset("tiny"), dir.path(), seeded(1)); },
      {"exists and is not empty", "nothing is ever overwritten"});
  expect_error<UsageError>(
      [&] { write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "precious", seeded(1)); },
      {"precious"});

  EXPECT_EQ(read_file(dir / "precious"), "x");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator{}), 1);
}

TEST(Synthetic, AnInterruptedRunLeavesNothing) {
  const ScratchDir dir;
  SyntheticOptions options = seeded(1);
  options.progress = [](std::uint64_t done, std::uint64_t total) {
    if (done > total / 2) throw Error("interrupted");
  };

  EXPECT_THROW(write_synthetic_checkpoint(synthetic_preset("tiny"), dir / "m", options), Error);

  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Synthetic, ContradictoryConfigIsRefusedBeforeAnythingIsWritten) {
  const ScratchDir dir;
  json config = synthetic_preset("tiny");
  config["n_routed_experts"] = 2;

  expect_error<ConfigError>([&] { write_synthetic_checkpoint(config, dir / "m", seeded(1)); },
                            {"2 routed experts"});

  EXPECT_TRUE(fs::is_empty(dir.path()));
}

}  // namespace
}  // namespace dsv4::testing
