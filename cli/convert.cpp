// SPDX-License-Identifier: Apache-2.0
#include "cli/convert.hpp"

#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "core/convert.hpp"

namespace dsv4::cli {
namespace {

struct Options {
  std::string model, experts, output;
  bool json = false, quiet = false;
};

int run(const Options& o) {
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  for (const auto& w : checkpoint.warnings()) say(o.quiet, "warning: {}", w);
  std::optional<Progress> progress;  // the total is known at the first call only
  CheckpointOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (!progress) progress.emplace("convert", static_cast<double>(total), "B", o.quiet || o.json);
    progress->update(static_cast<double>(done));
  };
  const WrittenCheckpoint report = convert_experts_to_fp8(checkpoint, o.output, options);
  progress.reset();
  if (o.json) {
    const nlohmann::ordered_json out = {{"schema_version", 1},     {"path", o.output},
                                        {"experts", o.experts},    {"tensors", report.tensors},
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

void add_convert(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "convert",
      "Write a checkpoint again with its FP4 experts in FP8: the same numbers, or refused");
  sub->add_option("model", o->model, "Checkpoint directory in the official layout")->required();
  sub->add_option("--experts", o->experts, "The format of the routed experts: fp8")
      ->required()
      ->check(CLI::IsMember({"fp8"}));
  sub->add_option("-o,--output", o->output, "Directory to create; must not exist or be empty")
      ->required();
  sub->add_flag("--json", o->json, "Print what was written as JSON");
  sub->add_flag("-q,--quiet", o->quiet, "Print nothing but errors");
  sub->footer("Example:\n  dsv4 convert golden/models/tiny --experts fp8 -o tiny-fp8");
  sub->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
