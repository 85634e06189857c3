// SPDX-License-Identifier: Apache-2.0
#include "cli/inspect.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "cli/inspect_report.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "conformance/coverage.hpp"
#include "conformance/same_model.hpp"

namespace dsv4::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::vector<std::string> inputs;
  InspectDetail detail;
  bool coverage = false, json = false;
};

std::string text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// A list of objects as a table: the columns `keys`, under the titles beside them.
using Columns = std::vector<std::pair<std::string, std::string>>;

std::string table(const Json& rows, const Columns& columns) {
  std::vector<std::string> header;
  for (const auto& [key, title] : columns) header.push_back(title);
  Table t(header);
  for (const Json& row : rows) {
    std::vector<std::string> cells;
    for (const auto& [key, title] : columns) {
      const Json& v = row.at(key);
      const bool bytes = key.find("bytes") != std::string::npos;
      cells.push_back(bytes                      ? human_bytes(v.get<double>())
                      : key.starts_with("flops") ? human_count(v.get<double>())
                                                 : text(v));
    }
    t.add(std::move(cells));
  }
  return t.text();
}

// "dim 256 · n_layers 5 · …" in lines of at most 96 characters.
std::string wrapped(const Json& object) {
  std::string out, line;
  for (const auto& [key, value] : object.items()) {
    const std::string item = fmt::format("{} {}", key, text(value));
    if (!line.empty() && line.size() + item.size() > 96) {
      out += fmt::format("  {}\n", line);
      line.clear();
    }
    line += (line.empty() ? "" : ", ") + item;
  }
  return line.empty() ? out : out + fmt::format("  {}\n", line);
}

void print_plan(const Json& plan) {
  const Columns columns{{"block", "block"},          {"type", "type"},
                        {"weight_bytes", "weights"}, {"touched_bytes_per_token", "read per token"},
                        {"cache_bytes", "cache"},    {"flops_per_token", "FLOP per token"}};
  Json rows = plan["blocks"];
  Json total{{"block", "all"}, {"type", "-"}};
  for (std::size_t i = 2; i < columns.size(); ++i) {
    double sum = 0;
    for (const Json& row : rows) sum += row[columns[i].first].get<double>();
    total[columns[i].first] = sum;
  }
  rows.push_back(total);
  fmt::print("\nFor one token after {} others (cache in float64, weights as stored):\n{}",
             text(plan["context"]), table(rows, columns));
}

void print_model(const Json& j) {
  fmt::print("{}\n", bold(fmt::format("{}: {} tensors, {}", text(j["path"]), text(j["tensors"]),
                                      human_bytes(j["bytes"].get<double>()))));
  if (j.contains("fingerprint")) fmt::print("  fingerprint {}\n", text(j["fingerprint"]));
  fmt::print("{}\n", wrapped(j["config"]));
  fmt::print("{}\n", table(j["layers"], {{"block", "block"},
                                         {"type", "type"},
                                         {"ratio", "ratio"},
                                         {"rope_base", "rope base"},
                                         {"yarn", "YaRN"},
                                         {"routing", "routing"}}));
  fmt::print("{}",
             table(j["storage"], {{"dtype", "dtype"}, {"tensors", "tensors"}, {"bytes", "bytes"}}));
  for (const Json& warning : j["warnings"]) fmt::print("warning: {}\n", text(warning));
  if (j.contains("plan")) print_plan(j["plan"]);
}

void print_datasets(const Json& call) {
  Json rows = Json::array();
  for (const Json& d : call["datasets"]) {
    rows.push_back(
        {{"name", d["name"]},
         {"shape", d["shape"].dump()},
         {"stored", d["stored"]},
         {"dtype", d.value("dtype", "-")},
         {"rows", d.contains("rows") ? fmt::format("{} rows", d["rows"].size()) : "all"}});
  }
  fmt::print("\ncall {}\n{}", text(call["name"]),
             table(rows, {{"name", "tap"},
                          {"shape", "shape"},
                          {"stored", "stored"},
                          {"dtype", "dtype"},
                          {"rows", "rows"}}));
}

void print_trace(const Json& j, bool datasets) {
  fmt::print("{}\n{}", bold(text(j["path"])), wrapped(j["attributes"]));
  fmt::print("{}", wrapped(j["config"]));
  const auto ids = j["input_ids"].get<std::vector<std::int64_t>>();
  const auto shown = std::min<std::ptrdiff_t>(std::ssize(ids), 12);
  fmt::print("  {} ids: {}{}\n\n", ids.size(), fmt::join(ids.begin(), ids.begin() + shown, " "),
             shown < std::ssize(ids) ? " …" : "");
  fmt::print("{}", table(j["calls"], {{"name", "call"},
                                      {"start", "start"},
                                      {"tokens", "tokens"},
                                      {"n_datasets", "datasets"},
                                      {"values", "values"}}));
  for (const Json& call : j["calls"]) {
    if (datasets) print_datasets(call);
  }
}

// A model and the traces named after it; traces before the first model stand alone.
struct Group {
  std::optional<Checkpoint> model;
  std::vector<golden::TraceFile> traces;
};

std::vector<Group> open_groups(const std::vector<std::string>& inputs) {
  std::vector<Group> groups;
  for (const std::string& input : inputs) {
    if (std::filesystem::is_directory(input)) {
      groups.emplace_back().model = Checkpoint::open(input);
      continue;
    }
    if (groups.empty()) groups.emplace_back();
    golden::TraceFile trace(input);
    std::vector<std::string> notes;
    if (groups.back().model) conformance::require_same_model(trace, *groups.back().model, notes);
    groups.back().traces.push_back(std::move(trace));
  }
  return groups;
}

Json coverage_of(const std::vector<std::string>& inputs) {
  std::vector<conformance::Condition> conditions;
  for (const Group& group : open_groups(inputs)) {
    auto of_group = conformance::coverage(group.model ? &*group.model : nullptr, group.traces);
    conditions = conditions.empty() ? std::move(of_group)
                                    : conformance::merge(std::move(conditions), of_group);
  }
  Json rows = Json::array();
  for (const conformance::Condition& c : conditions) {
    rows.push_back({{"id", c.id},
                    {"condition", c.sentence},
                    {"reached", conformance::name(c.reached)},
                    {"evidence", c.evidence}});
  }
  return rows;
}

void print_coverage(const Json& rows) {
  const auto with = [&](std::string_view reached) {
    return std::ranges::count_if(rows, [&](const Json& row) { return row["reached"] == reached; });
  };
  for (const Json& row : rows) {
    fmt::print("{:<8} {:<18} {}\n{:27} {}\n", text(row["reached"]), text(row["id"]),
               text(row["condition"]), "", dim(text(row["evidence"])));
  }
  fmt::print("\n{} of {} conditions reached, {} not, {} unknown\n", with("yes"), rows.size(),
             with("no"), with("unknown"));
}

int run(const InspectOptions& o) {
  Json out{{"schema_version", 1}};
  if (o.coverage) {
    out["coverage"] = coverage_of(o.inputs);
    if (!o.json) print_coverage(out["coverage"]);
  } else {
    out["inputs"] = Json::array();
    for (const std::string& input : o.inputs) {
      const bool model = std::filesystem::is_directory(input);
      const Json j = model ? describe(Checkpoint::open(input), o.detail)
                           : describe(golden::TraceFile(input), o.detail);
      if (!o.json && model) print_model(j);
      if (!o.json && !model) print_trace(j, o.detail.datasets);
      out["inputs"].push_back(j);
    }
  }
  if (o.json) fmt::print("{}\n", out.dump(2));
  return kAllPassed;
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_code) {
  auto o = std::make_shared<InspectOptions>();
  CLI::App* c = app.add_subcommand(
      "inspect", "Show what is in a model directory or a trace, what it covers, what it costs");
  c->add_option("inputs", o->inputs, "Model directories and trace files")
      ->required()
      ->type_name("MODEL_DIR|FILE.h5");
  auto* coverage = c->add_flag("--coverage", o->coverage,
                               "Which conditions that reveal known mistakes are reached; traces "
                               "belong to the model named before them");
  auto* plan =
      c->add_flag("--plan", o->detail.plan, "Bytes and arithmetic of each block of a model")
          ->excludes(coverage);
  c->add_option("--context", o->detail.context, "Tokens of context for --plan")
      ->needs(plan)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_flag("--all", o->detail.datasets, "Every dataset of a trace");
  c->add_flag("--fingerprint", o->detail.fingerprint,
              "SHA-256 of a model: names, types, shapes and the ends of every tensor");
  c->add_flag("--json", o->json, "Print JSON");
  c->footer(
      "Examples:\n"
      "  dsv4 inspect DeepSeek-V4-Flash --plan --context 1000000\n"
      "  dsv4 inspect trace.h5 --all\n"
      "  dsv4 inspect --coverage model trace.h5 other_trace.h5");
  c->callback([o, &exit_code] { exit_code = guarded([&] { return run(*o); }); });
}

}  // namespace dsv4::cli
