// SPDX-License-Identifier: Apache-2.0
#include "cli/make_model.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/synthetic.hpp"

namespace dsv4::cli {
namespace {

struct Options {
  std::string preset, config_file, layer_types, output;
  std::int64_t experts = 0, vocab = 0, layers = 0, hash_layers = -1, mtp = -1;
  std::uint64_t seed = 0;
  bool ties = false, json = false, quiet = false;
};

// "window,hca,csa" or ratios such as "0,128,4".
std::vector<std::int64_t> parse_layer_types(const std::string& text) {
  std::vector<std::int64_t> out;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    const std::string word = text.substr(start, end - start);
    start = end + 1;
    const bool number = !word.empty() && word.size() < 8 &&
                        word.find_first_not_of("0123456789") == std::string::npos;
    if (word == "window" || word == "swa") {
      out.push_back(0);
    } else if (word == "hca") {
      out.push_back(128);
    } else if (word == "csa") {
      out.push_back(4);
    } else if (number) {
      out.push_back(std::stoll(word));
    } else {
      throw UsageError(
          fmt::format("--layer-types: expected window, hca, csa or a ratio, found \"{}\"", word),
          "an example: --layer-types window,hca,csa,csa");
    }
  }
  return out;
}

// The preset, then --config, then the single options.
nlohmann::json make_config(const Options& o) {
  nlohmann::json config = nlohmann::json::object();
  if (!o.preset.empty()) config = synthetic_preset(o.preset);
  if (!o.config_file.empty()) {
    try {
      config.merge_patch(parse_json(read_text_file(o.config_file)));
    } catch (const IoError&) {
      throw;
    } catch (const std::exception& e) {
      throw ConfigError(fmt::format("{}: not valid JSON: {}", o.config_file, e.what()));
    }
  }
  const bool hf = !config.contains("n_layers");
  const auto key = [hf](const char* root, const char* inference) { return hf ? root : inference; };
  const auto number = [&](const char* name) {
    return config.contains(name) && config[name].is_number_integer()
               ? config[name].get<std::int64_t>()
               : 0;
  };
  const char* layers_key = key("num_hidden_layers", "n_layers");
  const char* mtp_key = key("num_nextn_predict_layers", "n_mtp_layers");
  const std::int64_t old_mtp = config.contains(mtp_key) ? number(mtp_key) : hf ? 0 : 1;
  if (o.experts > 0) config["n_routed_experts"] = o.experts;
  if (o.vocab > 0) config["vocab_size"] = o.vocab;
  if (o.hash_layers >= 0) config[key("num_hash_layers", "n_hash_layers")] = o.hash_layers;
  if (o.layer_types.empty() && o.layers == 0 && o.mtp < 0) return config;

  // Layers first (repeated or cut to --layers), then one window entry for each MTP block.
  std::vector<std::int64_t> types;
  if (!o.layer_types.empty()) {
    types = parse_layer_types(o.layer_types);
  } else {
    types = config.value("compress_ratios", std::vector<std::int64_t>{});
    types.resize(std::min(types.size(),
                          static_cast<std::size_t>(std::max<std::int64_t>(0, number(layers_key)))));
  }
  if (types.empty())
    throw UsageError("no layer types: neither --layer-types nor compress_ratios in the config");
  const auto layers = o.layers > 0 ? static_cast<std::size_t>(o.layers) : types.size();
  const auto mtp = o.mtp >= 0 ? o.mtp : old_mtp;
  std::vector<std::int64_t> ratios;
  for (std::size_t i = 0; i < layers; ++i) ratios.push_back(types[i % types.size()]);
  ratios.insert(ratios.end(), static_cast<std::size_t>(mtp), 0);
  config["compress_ratios"] = ratios;
  config[layers_key] = layers;
  config[mtp_key] = mtp;
  const char* hash_key = key("num_hash_layers", "n_hash_layers");
  if (o.hash_layers < 0)
    config[hash_key] = std::min<std::int64_t>(number(hash_key), static_cast<std::int64_t>(layers));
  return config;
}

int run(const Options& o) {
  if (o.preset.empty() && o.config_file.empty()) {
    throw UsageError("make-model needs --preset or --config",
                     "an example: dsv4 make-model --preset tiny --seed 1 -o tiny");
  }
  const nlohmann::json config = make_config(o);
  SyntheticOptions options;
  options.seed = o.seed;
  options.ties = o.ties;
  // The total is known at the first call only.
  std::optional<Progress> progress;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (!progress)
      progress.emplace("make-model", static_cast<double>(total), "B", o.quiet || o.json);
    progress->update(static_cast<double>(done));
  };
  const WrittenCheckpoint report = write_synthetic_checkpoint(config, o.output, options);
  progress.reset();
  if (o.json) {
    const nlohmann::ordered_json out = {{"schema_version", 1},     {"path", o.output},
                                        {"seed", o.seed},          {"tensors", report.tensors},
                                        {"shards", report.shards}, {"bytes", report.bytes}};
    fmt::print("{}\n", out.dump(2));
  } else if (!o.quiet) {
    fmt::print("{}: {} tensors, {} in {} shard{}\n", o.output, report.tensors,
               human_bytes(static_cast<double>(report.bytes)), report.shards,
               report.shards == 1 ? "" : "s");
  }
  return kAllPassed;
}

}  // namespace

void add_make_model(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "make-model",
      "Write a checkpoint with seeded random weights in the official layout, at any size");
  sub->add_option(
      "--preset", o->preset,
      "tiny: a few small layers of every type; engine: real head, RoPE, index and window sizes, "
      "small "
      "widths; flash-layer, pro-layer: one layer of true size (CSA unless --layer-types)");
  sub->add_option("--config", o->config_file,
                  "A config.json, whole or partial, laid over the preset");
  sub->add_option("--layer-types", o->layer_types,
                  "One per layer: window, hca, csa, or a ratio; e.g. window,hca,csa");
  sub->add_option("--layers", o->layers, "Number of layers; the layer types are repeated or cut")
      ->check(CLI::PositiveNumber);
  sub->add_option("--hash-layers", o->hash_layers, "How many of the first layers route by token id")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--mtp", o->mtp, "Number of MTP blocks")->check(CLI::NonNegativeNumber);
  sub->add_option("--experts", o->experts, "Routed experts per layer")->check(CLI::PositiveNumber);
  sub->add_option("--vocab", o->vocab, "Vocabulary size")->check(CLI::PositiveNumber);
  sub->add_flag("--ties", o->ties,
                "Experts 8i and 8i+1 share their routing row and bias: exact ties");
  sub->add_option("--seed", o->seed, "Seed of the weights")->required();
  sub->add_option("-o,--output", o->output, "Directory to create; must not exist or be empty")
      ->required();
  sub->add_flag("--json", o->json, "Print what was written as JSON");
  sub->add_flag("--quiet", o->quiet, "Print nothing but errors");
  sub->footer(
      "Examples:\n"
      "  dsv4 make-model --preset tiny --seed 1 -o tiny\n"
      "  dsv4 make-model --preset flash-layer --layer-types window,hca,csa --experts 64 --seed 7 "
      "-o flash3");
  sub->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
