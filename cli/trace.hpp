// SPDX-License-Identifier: Apache-2.0
// The subcommand `dsv4 trace`.
#pragma once

#include <CLI/CLI.hpp>

namespace dsv4::cli {

void add_trace(CLI::App& app, int& exit_code);

}  // namespace dsv4::cli
