// SPDX-License-Identifier: Apache-2.0
#include "core/config.hpp"

#include <functional>

#include "core/embedded.hpp"
#include "core/support.hpp"

namespace dsv4::testing {
namespace {

using nlohmann::json;

ModelConfig official(std::string_view name) {
  return parse_config(official_config(name), name).config;
}

ParsedConfig parse(const json& config) { return parse_config(config.dump(), "config.json"); }

// Changes one field of the small config and demands a ConfigError with these fragments.
void expect_rejected(const std::function<void(json&)>& change,
                     std::initializer_list<std::string_view> fragments) {
  json config = small_config();
  change(config);
  expect_error<ConfigError>([&] { parse(config); }, fragments);
}

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.dim, b.dim);
  EXPECT_EQ(a.n_layers, b.n_layers);
  EXPECT_EQ(a.n_hash_layers, b.n_hash_layers);
  EXPECT_EQ(a.n_mtp_layers, b.n_mtp_layers);
  EXPECT_EQ(a.n_heads, b.n_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.rope_head_dim, b.rope_head_dim);
  EXPECT_EQ(a.q_lora_rank, b.q_lora_rank);
  EXPECT_EQ(a.o_groups, b.o_groups);
  EXPECT_EQ(a.o_lora_rank, b.o_lora_rank);
  EXPECT_EQ(a.window_size, b.window_size);
  EXPECT_EQ(a.compress_ratios, b.compress_ratios);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.compress_rope_theta, b.compress_rope_theta);
  EXPECT_EQ(a.original_seq_len, b.original_seq_len);
  EXPECT_EQ(a.rope_factor, b.rope_factor);
  EXPECT_EQ(a.beta_fast, b.beta_fast);
  EXPECT_EQ(a.beta_slow, b.beta_slow);
  EXPECT_EQ(a.index_n_heads, b.index_n_heads);
  EXPECT_EQ(a.index_head_dim, b.index_head_dim);
  EXPECT_EQ(a.index_topk, b.index_topk);
  EXPECT_EQ(a.moe_inter_dim, b.moe_inter_dim);
  EXPECT_EQ(a.n_routed_experts, b.n_routed_experts);
  EXPECT_EQ(a.n_activated_experts, b.n_activated_experts);
  EXPECT_EQ(a.route_scale, b.route_scale);
  EXPECT_EQ(a.swiglu_limit, b.swiglu_limit);
  EXPECT_EQ(a.hc_mult, b.hc_mult);
  EXPECT_EQ(a.hc_sinkhorn_iters, b.hc_sinkhorn_iters);
  EXPECT_EQ(a.hc_eps, b.hc_eps);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.weight_format, b.weight_format);
  EXPECT_EQ(a.expert_format, b.expert_format);
}

TEST(Config, BothSpellingsOfFlashAgree) {
  expect_same(official("flash"), official("flash_inference"));
}

TEST(Config, BothSpellingsOfProAgree) { expect_same(official("pro"), official("pro_inference")); }

TEST(Config, OfficialFilesGiveNoWarning) {
  for (const char* name : {"flash", "pro", "flash_inference", "pro_inference"}) {
    EXPECT_EQ(parse_config(official_config(name), name).warnings, std::vector<std::string>{})
        << name;
  }
}

TEST(Config, FlashHasThePublishedNumbers) {
  const ModelConfig c = official("flash");

  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.dim, 4096);
  EXPECT_EQ(c.n_layers, 43);
  EXPECT_EQ(c.n_mtp_layers, 1);
  EXPECT_EQ(c.compress_ratios.size(), 44U);
  EXPECT_EQ(c.ratio(2), 4);
  EXPECT_EQ(c.ratio(3), 128);
  EXPECT_EQ(c.ratio(43), 0);
  EXPECT_EQ(c.original_seq_len, 65536);
  EXPECT_EQ(c.rope_factor, 16);
  EXPECT_EQ(c.route_scale, 1.5);
  EXPECT_EQ(c.mix_size(), 24);
  EXPECT_EQ(c.weight_format, WeightFormat::fp8);
  EXPECT_EQ(c.expert_format, WeightFormat::fp4);
}

TEST(Config, SmallConfigsAgreeToo) {
  expect_same(parse(small_config()).config, parse(small_inference_config()).config);
}

TEST(Config, RejectsEveryMissingFieldByName) {
  const json whole = small_config();
  for (const auto& [key, value] : whole.items()) {
    if (key == "model_type" || key == "rope_scaling" || key == "swiglu_limit" ||
        key == "hidden_act" || key == "attention_bias" || key == "tie_word_embeddings" ||
        key == "expert_dtype" || key == "quantization_config") {
      continue;  // absent has a meaning of its own
    }
    const std::string removed = key;
    expect_rejected([&](json& c) { c.erase(removed); },
                    {"config.json", "\"" + removed + "\" is missing"});
  }
}

TEST(Config, RejectsEveryMissingFieldOfTheInferenceSpelling) {
  const json whole = small_inference_config();
  for (const auto& [key, value] : whole.items()) {
    if (key == "swiglu_limit" || key == "expert_dtype" || key == "scale_fmt") continue;
    json config = small_inference_config();
    config.erase(key);
    expect_error<ConfigError>([&] { parse(config); }, {"\"" + key + "\" is missing"});
  }
}

TEST(Config, RejectsMissingYarnFields) {
  for (const char* key :
       {"type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}) {
    expect_rejected([&](json& c) { c["rope_scaling"].erase(key); },
                    {std::string("\"rope_scaling.") + key + "\" is missing"});
  }
}

TEST(Config, MissingFieldPointsAtATypingError) {
  expect_rejected(
      [](json& c) {
        c["hiden_size"] = c["hidden_size"];
        c.erase("hidden_size");
      },
      {"\"hidden_size\" is missing", "\"hiden_size\""});
}

TEST(Config, RejectsTwoSpellingsThatDisagree) {
  expect_rejected([](json& c) { c["dim"] = 65; }, {"\"dim\" is 65", "\"hidden_size\"", "64"});
}

TEST(Config, AcceptsTwoSpellingsThatAgree) {
  json config = small_config();
  config["dim"] = 64.0;

  EXPECT_EQ(parse(config).config.dim, 64);
}

TEST(Config, RejectsContradictions) {
  expect_rejected([](json& c) { c["compress_ratios"].push_back(0); },
                  {"compress_ratios: expected 6 entries", "5 layers + 1 MTP", "found 7"});
  expect_rejected([](json& c) { c["num_hash_layers"] = 6; }, {"n_hash_layers", "is 6", "5 layers"});
  expect_rejected([](json& c) { c["num_experts_per_tok"] = 7; }, {"is 7", "6 routed experts"});
  expect_rejected([](json& c) { c["o_groups"] = 5; }, {"4*48", "multiple of o_groups 5"});
  expect_rejected([](json& c) { c["head_dim"] = 8; }, {"head_dim 8", "rope_head_dim", "16"});
  expect_rejected([](json& c) { c["qk_rope_head_dim"] = 15; }, {"rope_head_dim", "15", "even"});
  expect_rejected([](json& c) { c["index_head_dim"] = 48; },
                  {"index_head_dim is 48", "power of two"});
  expect_rejected([](json& c) { c["index_head_dim"] = 8; }, {"index_head_dim 8", "16"});
  expect_rejected([](json& c) { c["n_shared_experts"] = 2; },
                  {"n_shared_experts", "expected 1, found 2"});
  expect_rejected([](json& c) { c["moe_intermediate_size"] = 40; },
                  {"FP4", "40", "multiples of 32"});
}

TEST(Config, RejectsWhatTheModelCannotHave) {
  expect_rejected([](json& c) { c["hidden_size"] = -64; }, {"\"hidden_size\"", "found -64"});
  expect_rejected([](json& c) { c["vocab_size"] = 0; }, {"\"vocab_size\"", "found 0"});
  expect_rejected([](json& c) { c["hidden_size"] = "64"; }, {"expected an integer", "\"64\""});
  expect_rejected([](json& c) { c["hidden_size"] = 1.5; }, {"expected an integer", "1.5"});
  expect_rejected([](json& c) { c["hidden_size"] = 1e300; }, {"expected an integer", "1e+300"});
  expect_rejected([](json& c) { c["hidden_size"] = 18446744073709551615ULL; }, {"too large"});
  expect_rejected([](json& c) { c["rope_theta"] = "10000"; }, {"expected a number", "\"10000\""});
  expect_rejected([](json& c) { c["rope_theta"] = 0; }, {"\"rope_theta\"", "> 0"});
  expect_rejected([](json& c) { c["compress_ratios"] = 4; }, {"expected an array", "4"});
  expect_rejected([](json& c) { c["compress_ratios"][1] = -4; }, {"compress_ratios[1]", "-4"});
  expect_rejected([](json& c) { c["compress_ratios"][1] = "csa"; },
                  {"compress_ratios[1]", "\"csa\""});
}

TEST(Config, RejectsVariantsThatAreNotCovered) {
  expect_rejected([](json& c) { c["num_key_value_heads"] = 4; }, {"num_key_value_heads", "1", "4"});
  expect_rejected([](json& c) { c["scoring_func"] = "sigmoid"; },
                  {"sqrtsoftplus", "sigmoid", "not covered"});
  expect_rejected([](json& c) { c["topk_method"] = "greedy"; }, {"noaux_tc", "greedy"});
  expect_rejected([](json& c) { c["norm_topk_prob"] = false; }, {"norm_topk_prob"});
  expect_rejected([](json& c) { c["tie_word_embeddings"] = true; }, {"tie_word_embeddings"});
  expect_rejected([](json& c) { c["attention_bias"] = true; }, {"attention_bias"});
  expect_rejected([](json& c) { c["hidden_act"] = "gelu"; }, {"silu", "gelu"});
  expect_rejected([](json& c) { c["rope_scaling"]["type"] = "linear"; }, {"yarn", "linear"});
  expect_rejected([](json& c) { c["rope_scaling"] = 16; }, {"rope_scaling", "object", "16"});
  expect_rejected(
      [](json& c) {
        c["quantization_config"]["weight_block_size"] = {32, 32};
      },
      {"weight_block_size", "[128,128]", "[32,32]"});
  expect_rejected([](json& c) { c["quantization_config"]["fmt"] = "e5m2"; }, {"e4m3", "e5m2"});
  expect_rejected([](json& c) { c["quantization_config"]["scale_fmt"] = "float"; }, {"ue8m0"});
  expect_rejected([](json& c) { c["quantization_config"]["quant_method"] = "gptq"; },
                  {"fp8", "gptq"});
  expect_rejected([](json& c) { c["expert_dtype"] = "int4"; }, {"expert_dtype", "int4"});
}

TEST(Config, RejectsTextThatIsNotJson) {
  expect_error<ConfigError>([] { parse_config("{\"dim\": 1", "c.json"); },
                            {"c.json", "not valid JSON"});
  expect_error<ConfigError>([] { parse_config("", "c.json"); }, {"c.json", "not valid JSON"});
  expect_error<ConfigError>([] { parse_config("[1]", "c.json"); },
                            {"c.json", "expected a JSON object"});
  expect_error<ConfigError>([] { parse_config("{\"dim\": 1, \"dim\": 2}", "c.json"); },
                            {"\"dim\" occurs twice"});
  expect_error<ConfigError>([] { parse_config(std::string(100000, '['), "c.json"); },
                            {"nested too deeply"});
}

TEST(Config, AbsentRopeScalingTurnsYarnOff) {
  json config = small_config();
  config["rope_scaling"] = nullptr;

  EXPECT_EQ(parse(config).config.original_seq_len, 0);
}

TEST(Config, AbsentSwigluLimitMeansNoClamp) {
  json config = small_config();
  config.erase("swiglu_limit");

  EXPECT_EQ(parse(config).config.swiglu_limit, 0);
}

TEST(Config, AbsentExpertFormatFollowsTheOtherWeights) {
  json config = small_config();
  config.erase("expert_dtype");

  EXPECT_EQ(parse(config).config.expert_format, WeightFormat::fp8);
  EXPECT_FALSE(parse(config).expert_dtype_given);

  config.erase("quantization_config");

  EXPECT_EQ(parse(config).config.weight_format, WeightFormat::bf16);
  EXPECT_EQ(parse(config).config.expert_format, WeightFormat::bf16);
}

TEST(Config, UnknownFieldIsAWarningWithTheNearestName) {
  json config = small_config();
  config["hidden_sise"] = 64;
  config["zzzzz"] = {{"inner", 1}};

  const std::vector<std::string> expected = {
      "unknown config field \"hidden_sise\" is ignored (did you mean \"hidden_size\"?)",
      "unknown config field \"zzzzz\" is ignored"};
  EXPECT_EQ(parse(config).warnings, expected);
}

TEST(Config, DsparkMeansBackboneOnly) {
  json config = small_config();
  config["compress_ratios"] = {0, 128, 4, 128, 4, 0, 0, 0};
  config["dspark_block_size"] = 5;
  config["dspark_markov_rank"] = 256;

  const ParsedConfig parsed = parse(config);

  EXPECT_TRUE(parsed.config.backbone_only);
  EXPECT_EQ(parsed.config.n_mtp_layers, 0);
  EXPECT_EQ(parsed.config.compress_ratios.size(), 5U);
  ASSERT_EQ(parsed.warnings.size(), 1U);
  EXPECT_NE(parsed.warnings[0].find("backbone only: dspark_block_size, dspark_markov_rank"),
            std::string::npos);
}

TEST(Config, OtherPositiveRatiosArePlainCompressors) {
  json config = small_config();
  config["compress_ratios"] = {0, 128, 4, 7, 4, 0};

  EXPECT_EQ(parse(config).config.ratio(3), 7);
}

}  // namespace
}  // namespace dsv4::testing
