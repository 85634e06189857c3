// SPDX-License-Identifier: Apache-2.0
// Which case kills which bug: one line `bug, case, verdict, tap, detail` for each pair. Every pair
// runs in a process of its own, so that a mutant that crashes is a line and not the end.
//
//   dsv4_bug_table [--bugs GLOB] [--case NAME]…      (default: the case that the catalogue names)
//   dsv4_bug_table --all                             conformance/bugs/kills.tsv: minutes
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "conformance/bugs/components.hpp"
#include "core/taps.hpp"
#include "mutants/kill.hpp"

namespace {

using dsv4::bugs::Bug;

void print(const Bug& bug, const std::string& golden, const std::string& rest) {
  fmt::print("{}\t{}\t{}\n", bug.id, golden, rest);
  std::fflush(stdout);
}

void one(dsv4::testing::Cases& cases, std::size_t number, const std::string& golden) {
  const Bug& bug = dsv4::bugs::catalogue()[number];
  const pid_t child = fork();
  if (child == 0) {
    const std::size_t thrown[] = {number};
    const auto kill = cases.run(thrown, golden);
    print(bug, golden,
          fmt::format("{}\t{}\t{}", kill.killed ? "killed" : "survived", kill.tap, kill.detail));
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    print(bug, golden, fmt::format("crashed\t\tsignal {}", WTERMSIG(status)));
}

using Kills = std::function<bool(std::size_t)>;

// Most cases are asked about the reported bugs; three small ones that show all stages about the
// systematic mutants too; official numerics, where an ensemble judges, about what only they show.
bool asked(const Bug& bug, const std::string& name) {
  const bool small = name == "tiny_prefill33_decode4" || name == "tiny_prefill4_optional" ||
                     name == "tiny_chunks_transformers" || name.starts_with("cases/");
  if (name.starts_with("official_") || name.starts_with("float32_"))
    return bug.golden == name || (!bug.systematic && bug.golden.starts_with("official_")) ||
           bug.id == "M13" || bug.id == "M65";
  return small || !bug.systematic || bug.golden == name;
}

// A line of kills.tsv: the case, and who dies of it. A child process for each, as above.
void line(const std::string& name, const Kills& kills) {
  std::string ids;
  const auto& bugs = dsv4::bugs::catalogue();
  for (std::size_t i = 0; i < bugs.size(); ++i) {
    if (!bugs[i].planted() || !asked(bugs[i], name)) continue;
    const pid_t child = fork();
    if (child == 0) _exit(kills(i) ? 1 : 0);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    ids += (ids.empty() ? "" : ",") + bugs[i].id;
  }
  fmt::print("{}\t{}\n", name, ids);
  std::fflush(stdout);
}

void all(dsv4::testing::Cases& cases) {
  for (const std::string& golden : cases.names()) {
    line(golden, [&](std::size_t bug) {
      const std::size_t thrown[] = {bug};
      return cases.run(thrown, golden).killed;
    });
  }
  for (const auto& c : dsv4::testing::component_cases()) {
    line("cases/" + c.id, [&](std::size_t bug) {
      const std::size_t thrown[] = {bug};
      return !dsv4::bugs::misses(c, dsv4::bugs::run_component(c, thrown)).empty();
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string glob = "*";
  std::vector<std::string> goldens;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--bugs") == 0) glob = argv[i + 1];
    if (std::strcmp(argv[i], "--case") == 0) goldens.emplace_back(argv[i + 1]);
  }
  dsv4::testing::Cases cases;
  if (argc == 2 && std::strcmp(argv[1], "--all") == 0) {
    all(cases);
    return 0;
  }
  const auto& bugs = dsv4::bugs::catalogue();
  for (std::size_t number = 0; number < bugs.size(); ++number) {
    if (!bugs[number].planted() || !dsv4::glob_match(glob, bugs[number].id)) continue;
    if (goldens.empty()) one(cases, number, bugs[number].golden);
    for (const std::string& golden : goldens) one(cases, number, golden);
  }
  return 0;
}
