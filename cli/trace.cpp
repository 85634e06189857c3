// SPDX-License-Identifier: Apache-2.0
#include "cli/trace.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>
#include <numeric>

#include <nlohmann/json.hpp>

#include "cli/backends.hpp"
#include "cli/options.hpp"
#include "cli/recorder.hpp"
#include "cli/terminal.hpp"
#include "core/arithmetic.hpp"
#include "core/error.hpp"
#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::cli {
namespace {

struct TraceOptions {
  std::string model, ids, ids_file, chunks, layers, rounding = "exact", arith,
                                                    backend = "reference", output;
  std::int64_t random = 0, prefill = 0, decode = 0;
  std::uint64_t seed = 0;
  std::vector<std::string> taps;
  bool mtp = false, json = false, quiet = false;
};

std::vector<std::int32_t> ids_of(const TraceOptions& o, const ModelConfig& config) {
  if (!o.ids.empty()) return parse_ids(o.ids, "--ids");
  if (!o.ids_file.empty()) return read_ids(o.ids_file);
  if (o.random > 0) return random_ids(o.random, o.seed, config.vocab_size);
  throw UsageError("no token ids", "give --ids 1,2,3, --ids-file FILE or --random N");
}

// Prefill chunks, then one call per decoded token.
std::vector<std::int64_t> call_lengths(const TraceOptions& o, std::int64_t ids) {
  std::vector<std::int64_t> lengths;
  const std::int64_t spare = o.mtp ? 1 : 0;  // MTP of the last token reads one id more
  if (!o.chunks.empty()) {
    lengths = parse_list(o.chunks, "--chunks");
  } else {
    // Without --prefill every id but the decoded ones is prefilled.
    const std::int64_t prefill = o.prefill > 0 ? o.prefill : ids - o.decode - spare;
    if (prefill > 0) lengths.push_back(prefill);
  }
  lengths.insert(lengths.end(), static_cast<std::size_t>(o.decode), 1);
  const std::int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  if (tokens == 0) throw UsageError("the prompt is empty", "give at least one token id");
  if (tokens + spare > ids) {
    throw UsageError(fmt::format("{} ids are needed ({} tokens{}), {} were given", tokens + spare,
                                 tokens, o.mtp ? " and the next one, for --mtp" : "", ids),
                     "decoded tokens are read from the ids, never sampled");
  }
  return lengths;
}

golden::TraceAttributes attributes(const TraceOptions& o, const Checkpoint& checkpoint) {
  golden::TraceAttributes a;
  a.rounding = o.rounding;
  a.arith = o.arith;
  a.config_json = checkpoint.config_json();
  a.producer = sizeof(Real) == sizeof(double) ? "dsv4 reference" : "dsv4 reference, long double";
  a.producer_revision = DSV4_VERSION;
  a.model_fingerprint = checkpoint.fingerprint();
  if (o.random > 0) a.seed = static_cast<std::int64_t>(o.seed);
  return a;
}

// Forwards to the recorder and draws the progress line.
class Watched : public TapSink {
 public:
  Watched(Recorder& to, Progress& progress) : to_(to), progress_(progress) {}
  void on_call(std::int64_t start, std::int64_t end) override {
    progress_.update(static_cast<double>(start));
    to_.on_call(start, end);
  }
  void on_value(TapEvent& e) override { to_.on_value(e); }
  void on_index(IndexEvent& e) override { to_.on_index(e); }
  bool wants(std::string_view name) const override { return to_.wants(name); }

 private:
  Recorder& to_;
  Progress& progress_;
};

int run(const TraceOptions& o) {
  const Rounding rounding = parse_rounding(o.rounding, "--rounding");
  const Checkpoint checkpoint = Checkpoint::open(o.model);
  for (const auto& w : checkpoint.warnings()) say(o.quiet, "warning: {}", w);
  const ModelConfig& config = checkpoint.config();
  if (o.mtp && config.n_mtp_layers == 0) throw UsageError("--mtp: this model has no MTP block");
  conformance::Case request;
  request.id = o.output;
  request.checkpoint = &checkpoint;
  request.ids = ids_of(o, config);
  request.mtp = o.mtp;
  request.numerics.rounding = rounding;
  if (!o.arith.empty()) {
    if (rounding == Rounding::exact) {
      throw UsageError(fmt::format("--arith {}: exact numerics have no rounding sites", o.arith),
                       "add --rounding official");
    }
    request.numerics.arithmetic = std::make_shared<Arithmetic>(load_arithmetic(o.arith));
  }
  std::int64_t at = 0;
  for (const std::int64_t n : call_lengths(o, std::ssize(request.ids))) {
    request.calls.push_back({at, at + n});
    at += n;
  }
  const auto keep = static_cast<std::size_t>(at + (o.mtp ? 1 : 0));
  if (request.ids.size() > keep) {
    say(o.quiet, "note: {} ids beyond what was asked for are dropped", request.ids.size() - keep);
    request.ids.resize(keep);
  }
  Range layers{0, -1};
  if (!o.layers.empty()) {
    layers = parse_range(o.layers, "--layers");
    if (layers.last >= config.n_layers) {
      throw UsageError(
          fmt::format("--layers {}: the model has layers 0-{}", o.layers, config.n_layers - 1));
    }
    if (o.mtp) throw UsageError("--layers and --mtp exclude each other");
    request.last_layer = layers.last;
  }
  const auto backend = make_backend(o.backend);
  golden::TraceWriter writer(o.output, attributes(o, checkpoint), request.ids);
  Recorder recorder(writer, config, rounding, o.taps, layers.first);
  Progress progress("trace", static_cast<double>(at), "tokens", o.quiet);
  Watched sink(recorder, progress);
  backend->run(request, Tap(sink));
  progress.finish();
  if (recorder.written() == 0) {
    fmt::print(stderr, "dsv4: error: --taps {}: matches no tap; nothing was written\n",
               fmt::join(o.taps, " "));
    return kNothingCompared;
  }
  writer.commit();
  if (o.json) {
    const nlohmann::ordered_json j{{"schema_version", 1},
                                   {"output", o.output},
                                   {"tokens", at},
                                   {"calls", request.calls.size()},
                                   {"datasets", recorder.written()}};
    fmt::print("{}\n", j.dump(2));
  } else {
    say(o.quiet, "{}: {} tokens in {} calls, {} datasets", o.output, at, request.calls.size(),
        recorder.written());
  }
  return kAllPassed;
}

}  // namespace

void add_trace(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<TraceOptions>();
  CLI::App* c =
      app.add_subcommand("trace", "Run the reference and write every intermediate to an HDF5 file");
  c->add_option("--model", o->model, "Checkpoint directory in the official layout")->required();
  auto* ids = c->add_option_group("ids");
  ids->add_option("--ids", o->ids, "Token ids: 1,2,3");
  ids->add_option("--ids-file", o->ids_file,
                  "File of token ids, separated by white space or commas");
  ids->add_option("--random", o->random, "So many random ids")
      ->check(CLI::Range(std::int64_t{1}, kMostTokens));
  ids->require_option(1);
  c->add_option("--seed", o->seed, "Seed of --random");
  auto* prefill = c->add_option("--prefill", o->prefill,
                                "Tokens of the first call (default: all but the decoded ones)")
                      ->check(CLI::Range(std::int64_t{1}, kMostTokens));
  c->add_option("--chunks", o->chunks, "Prefill in chunks of these lengths: 50,7,100")
      ->excludes(prefill);
  c->add_option("--decode", o->decode, "Then so many calls of one token, read from the ids")
      ->check(CLI::Range(std::int64_t{0}, kMostTokens));
  c->add_flag("--mtp", o->mtp, "Run the MTP block too (needs one id more)");
  c->add_option("--rounding", o->rounding,
                "exact: float64 throughout; official: rounded where the official code stores "
                "BF16, FP8, FP4")
      ->capture_default_str();
  c->add_option("--arith", o->arith,
                "With --rounding official: a bundled arithmetic (fp8-indexer, w4a16-experts, "
                "bf16-kv, fp32) or a JSON file that says what to do at which site");
  c->add_option("--backend", o->backend, "reference")->capture_default_str();
  c->add_option("--layers", o->layers, "Run layers 0…b, record a…b: a-b");
  c->add_option("--taps", o->taps, "Record only taps that match this glob; * crosses dots; repeats")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("-o,--output", o->output, "The trace file")->required();
  c->add_flag("--json", o->json, "Print a summary as JSON");
  c->add_flag("-q,--quiet", o->quiet, "No progress, no notes");
  c->footer(
      "Example:\n  dsv4 trace --model golden/models/tiny --random 42 --seed 1 --prefill 37 "
      "--decode 4 --mtp -o trace.h5");
  c->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
