// SPDX-License-Identifier: Apache-2.0
// Which case kills which bug: one line `bug, case, verdict, tap, detail` for each pair. Every pair
// runs in a process of its own, so that a mutant that crashes is a line and not the end.
//
//   dsv4_bug_table [--bugs GLOB] [--case NAME]…      (default: the case that the catalogue names)
//   dsv4_bug_table --all                             conformance/bugs/kills.tsv: minutes
//   dsv4_bug_table --kills GLOB                      its lines for these cases only
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

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
    const auto kill = dsv4::testing::kill(cases, thrown, golden);
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

// A line of kills.tsv: the case, and who dies of it. A child process for each, as above.
void line(const std::string& name, const Kills& kills) {
  std::string ids;
  const auto& bugs = dsv4::bugs::catalogue();
  for (std::size_t i = 0; i < bugs.size(); ++i) {
    if (!dsv4::testing::measured(bugs[i], name)) continue;
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

void table(dsv4::testing::Cases& cases, const std::string& glob) {
  for (const std::string& golden : cases.names()) {
    if (!dsv4::glob_match(glob, golden)) continue;
    line(golden, [&](std::size_t bug) {
      const std::size_t thrown[] = {bug};
      return cases.run(thrown, golden).killed;
    });
  }
  for (const auto& c : dsv4::testing::component_cases()) {
    if (!dsv4::glob_match(glob, "cases/" + c.id)) continue;
    line("cases/" + c.id, [&](std::size_t bug) { return dsv4::testing::kills(c, bug); });
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
  if (argc == 2 && std::strcmp(argv[1], "--all") == 0) return table(cases, "*"), 0;
  if (argc == 3 && std::strcmp(argv[1], "--kills") == 0) return table(cases, argv[2]), 0;
  const auto& bugs = dsv4::bugs::catalogue();
  for (std::size_t number = 0; number < bugs.size(); ++number) {
    if (!bugs[number].planted() || !dsv4::glob_match(glob, bugs[number].id)) continue;
    if (goldens.empty()) one(cases, number, bugs[number].golden);
    for (const std::string& golden : goldens) one(cases, number, golden);
  }
  return 0;
}
