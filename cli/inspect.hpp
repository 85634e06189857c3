// SPDX-License-Identifier: Apache-2.0
// The subcommand `dsv4 inspect`: what is in a model directory or a trace, what it covers, what it
// will cost.
#pragma once

#include <CLI/CLI.hpp>

namespace dsv4::cli {

void add_inspect(CLI::App& app, int& exit_code);

}  // namespace dsv4::cli
