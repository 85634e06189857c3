// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>

namespace dsv4::cli {

void add_convert(CLI::App& app, int& exit_code);

}  // namespace dsv4::cli
