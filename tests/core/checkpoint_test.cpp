// SPDX-License-Identifier: Apache-2.0
// Opening a checkpoint: the good one, and every way to damage it.
#include <functional>

#include "core/support.hpp"
#include "core/weights.hpp"

namespace dsv4::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kExpert = "layers.2.ffn.experts.1.w1";

// Damages the small checkpoint in memory, writes it, and demands an error of type E.
template <class E>
void expect_refused(const std::function<void(SmallCheckpoint&)>& damage,
                    std::initializer_list<std::string_view> fragments) {
  const ScratchDir dir;
  SmallCheckpoint c;
  damage(c);
  c.write(dir.path());
  expect_error<E>([&] { Checkpoint::open(dir.path()); }, fragments);
}

TEST(Checkpoint, OpensOneFileAndShardsAlike) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  fs::create_directories(dir / "one");
  fs::create_directories(dir / "two");
  c.write(dir / "one");
  c.write(dir / "two", true);

  const Checkpoint one = Checkpoint::open(dir / "one");
  const Checkpoint two = Checkpoint::open(dir / "two");

  EXPECT_EQ(one.tensor_count(), c.tensors.size());
  EXPECT_EQ(one.total_bytes(), two.total_bytes());
  EXPECT_EQ(one.fingerprint(), two.fingerprint());
  EXPECT_TRUE(one.warnings().empty());
  EXPECT_EQ(one.config().dim, 64);
  EXPECT_EQ(json::parse(one.config_json()), c.config);
}

TEST(Checkpoint, ReadsShardsWithoutIndex) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path(), true);
  fs::remove(dir / "model.safetensors.index.json");

  EXPECT_EQ(Checkpoint::open(dir.path()).tensor_count(), c.tensors.size());
}

TEST(Checkpoint, HandsOutMatricesAndVectors) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path());
  const Checkpoint model = Checkpoint::open(dir.path());

  const Weight fp8 = model.matrix("layers.0.attn.wq_a");
  const Weight fp4 = model.matrix(kExpert);
  const Weight bare = model.matrix("layers.0.hc_attn_fn");

  EXPECT_EQ(fp8.dtype, DType::F8_E4M3);
  EXPECT_EQ(fp8.rows, 40);
  EXPECT_NE(fp8.scale, nullptr);
  EXPECT_EQ(fp4.dtype, DType::I8);
  EXPECT_EQ(fp4.cols, 64);
  EXPECT_NE(fp4.scale, nullptr);
  EXPECT_EQ(bare.cols, 256);
  EXPECT_EQ(bare.scale, nullptr);
  EXPECT_EQ(model.vector("norm.weight").size(), 64);
  expect_error<WeightError>([&] { (void)model.vector("norm.weigth"); },
                            {"no tensor norm.weigth", "norm.weight"});
  expect_error<WeightError>([&] { (void)model.vector("embed.weight"); },
                            {"expected a vector", "[48, 64]"});
  expect_error<WeightError>([&] { (void)model.matrix("norm"); }, {"expected a matrix", "[64]"});
}

TEST(Checkpoint, ExtraTensorsAreOneWarning) {
  const ScratchDir dir;
  SmallCheckpoint c;
  for (int i = 0; i < 7; ++i) {
    const std::string extra = "mtp.0.emb." + std::to_string(i);
    c.tensors.push_back({extra, DType::U8, {2}});
    c.bytes[extra] = {std::byte{1}, std::byte{2}};
  }
  c.write(dir.path());

  const std::vector<std::string> warnings = Checkpoint::open(dir.path()).warnings();

  const std::vector<std::string> expected = {
      "7 extra tensors ignored: mtp.0.emb.0, mtp.0.emb.1, mtp.0.emb.2, mtp.0.emb.3, mtp.0.emb.4, "
      "…"};
  EXPECT_EQ(warnings, expected);
}

TEST(Checkpoint, DsparkCheckpointsOpenAsBackbone) {
  const ScratchDir dir;
  SmallCheckpoint c;
  c.config["dspark_block_size"] = 5;
  c.config["compress_ratios"] = {0, 128, 4, 128, 4, 0, 0, 0};
  c.write(dir.path());

  const Checkpoint model = Checkpoint::open(dir.path());

  EXPECT_TRUE(model.config().backbone_only);
  ASSERT_EQ(model.warnings().size(), 2U);
  EXPECT_NE(model.warnings()[0].find("backbone only"), std::string::npos);
  EXPECT_NE(model.warnings()[1].find("extra tensors ignored: mtp.0."), std::string::npos);
}

TEST(Checkpoint, Fp4ExpertsWithoutExpertDtypeAreAWarning) {
  const ScratchDir dir;
  SmallCheckpoint c;
  c.config.erase("expert_dtype");
  c.write(dir.path());

  const Checkpoint model = Checkpoint::open(dir.path());

  EXPECT_EQ(model.config().expert_format, WeightFormat::fp4);
  ASSERT_EQ(model.warnings().size(), 1U);
  EXPECT_NE(model.warnings()[0].find("lacks \"expert_dtype\""), std::string::npos);
}

TEST(Checkpoint, RefusesMissingShard) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path(), true);
  fs::remove(dir / "model-00002-of-00002.safetensors");

  expect_error<WeightError>([&] { Checkpoint::open(dir.path()); },
                            {"missing shard model-00002-of-00002.safetensors", "tensors ("});
}

TEST(Checkpoint, RefusesIndexThatNamesAMissingTensor) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path(), true);
  json index = json::parse(read_file(dir / "model.safetensors.index.json"));
  index["weight_map"]["head.weights"] = "model-00001-of-00002.safetensors";
  write_file(dir / "model.safetensors.index.json", index.dump());

  expect_error<WeightError>(
      [&] { Checkpoint::open(dir.path()); },
      {"index.json", "names tensor head.weights", "no shard holds it", "head.weight"});
}

TEST(Checkpoint, RefusesIndexThatNamesTheWrongShard) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path(), true);
  json index = json::parse(read_file(dir / "model.safetensors.index.json"));
  index["weight_map"]["embed.weight"] = "model-00002-of-00002.safetensors";
  write_file(dir / "model.safetensors.index.json", index.dump());

  expect_error<WeightError>(
      [&] { Checkpoint::open(dir.path()); },
      {"tensor embed.weight", "expected in model-00002", "found in model-00001"});
}

TEST(Checkpoint, RefusesIndexThatLeavesTheDirectory) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path());
  for (const char* shard : {"../model.safetensors", "/etc/passwd", ""}) {
    write_file(dir / "model.safetensors.index.json",
               json{{"weight_map", {{"embed.weight", shard}}}}.dump());
    expect_error<WeightError>([&] { Checkpoint::open(dir.path()); },
                              {"in the same directory", shard});
  }
  write_file(dir / "model.safetensors.index.json", "{}");
  expect_error<WeightError>([&] { Checkpoint::open(dir.path()); },
                            {"expected an object \"weight_map\""});
}

TEST(Checkpoint, RefusesMissingTensorWithTheNearestName) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) {
        c.tensors.push_back({"layers.3.attn.kvnorm.weight", DType::BF16, {48}});
        c.bytes["layers.3.attn.kvnorm.weight"].resize(96);
        c.erase("layers.3.attn.kv_norm.weight");
      },
      {"missing tensor layers.3.attn.kv_norm.weight (BF16 [48])", "layers.3.attn.kvnorm.weight"});
}

TEST(Checkpoint, RefusesMissingScale) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.erase("layers.0.attn.wkv.scale"); },
      {"missing tensor layers.0.attn.wkv.scale (F8_E8M0 [1, 1])", "never cast"});
}

TEST(Checkpoint, RefusesWrongShapeAndDtype) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) {
        c.resize("head.weight", DType::BF16, {64, 48});
      },
      {"tensor head.weight", "wrong shape", "expected [48, 64], found [64, 48]"});
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) {
        c.resize("head.weight", DType::F32, {48, 64});
      },
      {"tensor head.weight", "wrong dtype", "expected BF16, found F32"});
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) {
        c.resize("layers.0.attn.wkv.scale", DType::F32, {1, 1});
      },
      {"layers.0.attn.wkv.scale", "expected F8_E8M0, found F32", "2^(code-127)"});
}

TEST(Checkpoint, RefusesAConfigOfAnotherModel) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.config["hidden_size"] = 96; },
      {"embed.weight", "expected [48, 96], found [48, 64]", "different models"});
  expect_refused<WeightError>([](SmallCheckpoint& c) { c.config["n_routed_experts"] = 8; },
                              {"expected [8, 64]"});
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.config["expert_dtype"] = "fp8"; },
      {"layers.0.ffn.experts.0.w1.weight", "expected F8_E4M3, found I8", "expert_dtype"});
}

TEST(Checkpoint, RefusesNanScaleWithItsCoordinates) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.bytes[std::string(kExpert) + ".scale"][5] = std::byte{255}; },
      {"model.safetensors", "tensor layers.2.ffn.experts.1.w1.scale[2, 1]", "found 255"});
}

TEST(Checkpoint, RefusesExpertIdsOutOfRange) {
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.bytes["layers.1.ffn.gate.tid2eid"][8] = std::byte{6}; },
      {"tensor layers.1.ffn.gate.tid2eid[0, 1]", "0..5", "found 6"});
  expect_refused<WeightError>(
      [](SmallCheckpoint& c) { c.bytes["layers.1.ffn.gate.tid2eid"][23] = std::byte{0x80}; },
      {"tid2eid[1, 0]", "found -922337203685477580"});
}

TEST(Checkpoint, RefusesTheSameTensorInTwoFiles) {
  const ScratchDir dir;
  const SmallCheckpoint c;
  c.write(dir.path());
  fs::rename(dir / "model.safetensors", dir / "a.safetensors");
  fs::copy_file(dir / "a.safetensors", dir / "b.safetensors");

  expect_error<WeightError>([&] { Checkpoint::open(dir.path()); },
                            {"b.safetensors", "is also in a.safetensors"});
}

TEST(Checkpoint, RefusesDirectoriesThatHoldNoCheckpoint) {
  const ScratchDir dir;
  expect_error<IoError>([&] { Checkpoint::open(dir / "nowhere"); },
                        {"no such directory", "config.json"});
  write_file(dir / "file", "x");
  expect_error<IoError>([&] { Checkpoint::open(dir / "file"); },
                        {"expected a directory, found a file"});
  expect_error<ConfigError>([&] { Checkpoint::open(dir.path()); }, {"no config.json"});
  fs::create_directories(dir / "inference");
  write_file(dir / "inference/config.json", small_inference_config().dump());
  expect_error<ConfigError>([&] { Checkpoint::open(dir.path()); },
                            {"no config.json", "inference/config.json"});
  write_file(dir / "config.json", small_config().dump());
  expect_error<WeightError>([&] { Checkpoint::open(dir.path()); }, {"no *.safetensors file"});
}

TEST(Checkpoint, ReadsTheInferenceSpellingAsConfigJson) {
  const ScratchDir dir;
  SmallCheckpoint c;
  c.config = small_inference_config();
  c.write(dir.path());

  EXPECT_EQ(Checkpoint::open(dir.path()).config().n_mtp_layers, 1);
}

// The expected digest was computed with Python's hashlib from the definition in weights.hpp: tensor
// i (in the order of their names) is filled with the byte i mod 96, scales with 120, hash tables
// with 0.
TEST(Checkpoint, FingerprintEqualsAnIndependentlyComputedOne) {
  const ScratchDir dir;
  SmallCheckpoint c;
  std::size_t i = 0;
  for (auto& [name, bytes] : c.bytes) {
    std::size_t value = i++ % 96;
    if (name.ends_with(".scale")) value = 120;
    if (name.ends_with(".tid2eid")) value = 0;
    std::ranges::fill(bytes, static_cast<std::byte>(value));
  }
  c.write(dir.path());

  EXPECT_EQ(Checkpoint::open(dir.path()).fingerprint(),
            "fa8bba8224a5e5dd4b1358a869449b45c379e446edfe05c4e7789b8a3a81e46a");
}

TEST(Checkpoint, FingerprintSeesTheWeights) {
  const ScratchDir dir;
  SmallCheckpoint c;
  c.write(dir.path());
  const std::string before = Checkpoint::open(dir.path()).fingerprint();
  c.bytes["norm.weight"][0] ^= std::byte{1};
  c.write(dir.path());

  EXPECT_NE(Checkpoint::open(dir.path()).fingerprint(), before);
}

}  // namespace
}  // namespace dsv4::testing
