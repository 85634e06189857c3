// SPDX-License-Identifier: Apache-2.0
// The program dsv4. Data goes to stdout, talk to stderr. Exit codes: 0 all compared passed, 1 a
// difference, 2 usage, unreadable input, I/O failure, 3 nothing was compared.
#include <cstdio>
#include <exception>
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cli/convert.hpp"
#include "cli/diagnose.hpp"
#include "cli/diff.hpp"
#include "cli/inspect.hpp"
#include "cli/make_model.hpp"
#include "cli/options.hpp"
#include "cli/trace.hpp"
#include "cli/verify.hpp"
#include "core/cpu_check.hpp"
#include "reference/memory.hpp"

namespace {

int run(int argc, char** argv) {
  if (const char* problem = dsv4::cpu_problem()) {
    std::fprintf(stderr, "dsv4: error: %s\n", problem);
    return dsv4::cli::kBadInput;
  }
  dsv4::reference::keep_freed_memory();
  int exit_code = dsv4::cli::kAllPassed;
  CLI::App app{
      "The float64 ground truth of DeepSeek-V4, and whether another implementation computes the "
      "same thing",
      "dsv4"};
  app.set_version_flag("--version", fmt::format("dsv4 {}\nbackends: reference", DSV4_VERSION));
  app.require_subcommand(1);
  app.footer("dsv4 COMMAND --help shows the options of a command and an example.");
  dsv4::cli::add_verify(app, exit_code);
  dsv4::cli::add_trace(app, exit_code);
  dsv4::cli::add_diff(app, exit_code);
  dsv4::cli::add_diagnose(app, exit_code);
  dsv4::cli::add_inspect(app, exit_code);
  dsv4::cli::add_make_model(app, exit_code);
  dsv4::cli::add_convert(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    // --help and --version end here too, with 0; every other usage error is 2.
    return app.exit(e) == 0 ? dsv4::cli::kAllPassed : dsv4::cli::kBadInput;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dsv4: error: %s\n", e.what());
    return dsv4::cli::kBadInput;
  }
}
