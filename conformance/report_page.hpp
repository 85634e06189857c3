// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace dsv4::conformance {

// report.html, compiled in. __REPORT__ stands for the report's JSON.
std::string_view report_page();

}  // namespace dsv4::conformance
