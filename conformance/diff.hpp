// SPDX-License-Identifier: Apache-2.0
// Two traces side by side, rows joined by tap and absolute position. Measures; it does not judge.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "golden/trace_file.hpp"

namespace dsv4::conformance {

struct Difference {
  std::string tap;
  int order = 0;
  std::string problem;    // shapes that cannot be compared
  std::int64_t rows = 0;  // shared by both traces
  double max_error = 0;   // integers: 1 where a row's sets differ
  double relative = 0;    // max_error / largest finite magnitude of the tap in A
  double rms = 0;
  double cosine_distance = 0;  // 1 - 2<a,b> / (<a,a> + <b,b>)
  double ulps = 0;  // largest error in units of the last place of the coarser of both dtypes
  std::int64_t position = -1;  // of the worst element
  std::int64_t column = 0;
};

// In the order of the forward pass. Taps that only one trace has are listed with zero rows.
std::vector<Difference> diff(const golden::TraceFile& a, const golden::TraceFile& b);

}  // namespace dsv4::conformance
