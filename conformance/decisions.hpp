// SPDX-License-Identifier: Apache-2.0
// Discrete choices: two top-k sets of the same scores are both right when every exchanged pair lies
// within the scores' own error band. Ties are free; there are no recall percentages.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dsv4::conformance {

struct Choice {
  bool same = false;        // as sets
  bool valid = false;       // in range, no duplicates, the right number of them, only candidates
  std::string problem;      // when not valid
  double gap = 0;           // largest score difference bought back by an exchange (>= 0)
  double band = 0;          // what the scores' errors allow for that exchange
  std::int64_t column = 0;  // of `theirs`: first entry that ours does not choose
  double range = 0;         // of all candidates' scores
  // A band as wide as the scores lets any choice pass.
  bool open() const { return !same && range > 0 && band >= range; }
  bool legal() const { return valid && (same || gap <= band); }
};

// ours, theirs: chosen columns, -1 = none. scores: what was ranked, -inf = not a candidate; empty:
// nothing was ranked and the sets must be equal. band: error of each score; empty: exact.
Choice compare_choice(std::span<const std::int32_t> ours, std::span<const std::int64_t> theirs,
                      std::span<const double> scores, std::span<const double> band);

}  // namespace dsv4::conformance
