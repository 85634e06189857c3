// SPDX-License-Identifier: Apache-2.0
// The subcommand `dsv4 diagnose`.
#pragma once

#include <CLI/CLI.hpp>

namespace dsv4::cli {

void add_diagnose(CLI::App& app, int& exit_code);

}  // namespace dsv4::cli
