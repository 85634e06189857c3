// SPDX-License-Identifier: Apache-2.0
#include "mutants/kill.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "conformance/runner.hpp"
#include "core/taps.hpp"

namespace dsv4::testing {

Cases::Cases() : root_(DSV4_SOURCE_DIR) {
  const auto bundle = nlohmann::json::parse(std::ifstream(root_ / "golden" / "bundle.json"));
  for (const auto& [file, golden] : bundle.at("goldens").items())
    models_[std::filesystem::path(file).stem()] = golden.at("model").get<std::string>();
}

const golden::TraceFile& Cases::trace(const std::string& golden) {
  auto& trace = traces_[golden];
  if (!trace) trace = std::make_unique<golden::TraceFile>(root_ / "golden" / (golden + ".h5"));
  return *trace;
}

const Checkpoint& Cases::model_of(const std::string& golden) {
  const std::string& dir = models_.at(golden);
  auto& checkpoint = checkpoints_[dir];
  if (!checkpoint) checkpoint = std::make_unique<Checkpoint>(Checkpoint::open(root_ / dir));
  return *checkpoint;
}

Kill Cases::run(std::span<const std::size_t> bugs, const std::string& golden) {
  const Checkpoint& checkpoint = model_of(golden);
  const auto backend = bugs::mutant(bugs);
  Kill kill;
  try {
    const auto report = conformance::verify(trace(golden), checkpoint, *backend, {});
    const conformance::Result* first = report.first_difference();
    if (first == nullptr) return kill;
    kill.killed = true;
    const auto m = find_tap(first->tap, static_cast<int>(checkpoint.config().n_layers));
    kill.tap = m ? m->info->name : first->tap;
    kill.detail = fmt::format("{} at position {}: error {:.2e}, bound {:.2e} {}", first->tap,
                              first->position, first->error, first->bound, first->reason);
  } catch (const std::exception& e) {
    kill.killed = true;
    kill.tap = "exception";
    kill.detail = e.what();
  }
  return kill;
}

std::vector<std::string> Cases::names() const {
  std::vector<std::string> out;
  for (const auto& [golden, model] : models_) out.push_back(golden);
  return out;
}

std::vector<bugs::ComponentCase> component_cases() {
  std::vector<bugs::ComponentCase> out;
  const auto folder = std::filesystem::path(DSV4_SOURCE_DIR) / "golden" / "cases";
  for (const auto& file : std::filesystem::directory_iterator(folder))
    if (file.path().extension() == ".h5") out.push_back(bugs::read_component_case(file.path()));
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

bool kills(const bugs::ComponentCase& c, std::size_t bug) {
  const std::size_t thrown[] = {bug};
  return !bugs::misses(c, bugs::run_component(c, thrown)).empty();
}

Kill kill(Cases& cases, std::span<const std::size_t> bugs, const std::string& name) {
  if (!name.starts_with("cases/")) return cases.run(bugs, name);
  for (const auto& c : component_cases()) {
    if ("cases/" + c.id != name) continue;
    const auto missed = bugs::misses(c, bugs::run_component(c, bugs));
    if (missed.empty()) return {};
    const bugs::Miss& first = missed.front();
    return {true, first.name, fmt::format("error {:.2e}, bound {:.2e}", first.error, first.bound)};
  }
  throw std::invalid_argument(name + ": no such case");
}

// Most cases are asked about the reported bugs; three small ones that show all stages about the
// systematic mutants and variants too; official numerics, where an ensemble judges, about what only
// they show.
bool measured(const bugs::Bug& bug, const std::string& name) {
  const bool small = name == "tiny_prefill33_decode4" || name == "tiny_prefill4_optional" ||
                     name == "tiny_chunks_transformers" || name.starts_with("cases/");
  const bool reported = !bug.systematic && !bug.variant;
  if (!bug.planted()) return false;
  if (name.starts_with("official_") || name.starts_with("float32_"))
    return bug.golden == name || (reported && bug.golden.starts_with("official_")) ||
           bug.id == "M13" || bug.id == "M65";
  return small || reported || bug.golden == name;
}

}  // namespace dsv4::testing
