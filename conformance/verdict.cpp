// SPDX-License-Identifier: Apache-2.0
#include "conformance/verdict.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

namespace dsv4::conformance {
namespace {

// In the order of the forward pass: embedding, blocks, head, MTP; within a block that of taps.tsv.
template <class Wanted>
const Result* first_of(const std::vector<Result>& results, Wanted wanted) {
  const auto key = [](const Result& r) {
    const bool tail = r.block < 0 && r.tap != "embed";
    const int block = r.block >= 0 ? r.block : tail ? std::numeric_limits<int>::max() / 2 : -1;
    const bool mtp = r.tap.starts_with("mtp.");
    return std::tuple(mtp, block, r.order, r.position);
  };
  const Result* first = nullptr;
  for (const Result& r : results) {
    if (wanted(r) && (!first || key(r) < key(*first))) first = &r;
  }
  return first;
}

}  // namespace

std::string_view name(Verdict v) {
  switch (v) {
    case Verdict::passed:
      return "PASSED";
    case Verdict::failed:
      return "FAILED";
    case Verdict::absent:
      return "ABSENT";
    case Verdict::unknown:
      return "UNKNOWN";
    case Verdict::skipped:
      return "SKIPPED";
    case Verdict::not_exposed:
      return "NOT_EXPOSED";
    case Verdict::mistrusted:
      return "MISTRUSTED";
  }
  return "?";
}

std::map<std::string, std::int64_t> Report::counts() const {
  std::map<std::string, std::int64_t> n;
  for (const Verdict v : {Verdict::passed, Verdict::failed, Verdict::absent, Verdict::unknown,
                          Verdict::skipped, Verdict::not_exposed, Verdict::mistrusted}) {
    n[std::string(name(v))] = 0;
  }
  for (const Result& r : results) ++n[std::string(name(r.verdict))];
  return n;
}

const Result* Report::first_difference() const {
  return first_of(results, [](const Result& r) { return r.verdict == Verdict::failed; });
}

const Result* Report::first_unstable() const {
  return first_of(results, [](const Result& r) { return r.spread_ratio > 1; });
}

bool Report::nothing_compared() const {
  return std::none_of(results.begin(), results.end(), [](const Result& r) {
    return r.verdict == Verdict::passed || r.verdict == Verdict::failed;
  });
}

int Report::exit_code() const {
  if (first_difference() != nullptr) return 1;
  return nothing_compared() ? 3 : 0;
}

}  // namespace dsv4::conformance
