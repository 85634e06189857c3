// SPDX-License-Identifier: Apache-2.0
// Text helpers for error messages: which known name did the user probably mean?
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dsv4 {

// Levenshtein distance, given up (returning limit + 1) once it must exceed `limit`.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit);

// The name in `known` (a range of strings) that is nearest to `word`, or "" if none is close.
template <class Range>
std::string nearest(std::string_view word, const Range& known) {
  std::size_t best = word.size() / 3 + 1;  // a third of the letters may differ
  std::string found;
  for (const auto& candidate : known) {
    const std::size_t d = edit_distance(word, candidate, best);
    if (d < best || (d == best && found.empty())) {
      best = d;
      found = std::string(candidate);
    }
  }
  return found;
}

}  // namespace dsv4
