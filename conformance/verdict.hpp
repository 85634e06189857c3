// SPDX-License-Identifier: Apache-2.0
// The vocabulary of results. One Result per dataset of a trace: tap x call.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::conformance {

enum class Verdict {
  passed,
  failed,
  absent,       // the trace lacks this tap
  unknown,      // the trace has a name nobody knows
  skipped,      // could not be compared; the reason says why
  not_exposed,  // the port says that it never has this value: its kernels fuse it away
  mistrusted,   // nothing meaningful was compared: all zero, all NaN, constant
};

std::string_view name(Verdict v);  // "PASSED"

struct Result {
  std::string tap;
  int call = 0;    // call of the trace
  int order = 0;   // stage: order of taps.tsv
  int block = -1;  // layer; n_layers + J for MTP
  Verdict verdict = Verdict::absent;
  std::string reason;  // SKIPPED(reason), what is wrong with a shape, the nearest known name
  // The worst element: largest error / bound.
  double error = 0;
  double bound = 0;
  double ours = 0;
  double theirs = 0;
  std::vector<std::int64_t> index;  // in the dataset
  std::int64_t position = -1;  // absolute position of its row (entries: first token of the group)
  double magnitude = 0;        // largest finite |value| of the dataset
  // Errors in units of what independent roundings give: root mean square, and mean towards larger
  // magnitudes. The bounds are 0 where nothing follows from them (conformance/roundings.hpp).
  double rms = 0, rms_bound = 0, bias = 0, bias_bound = 0;
  std::vector<std::string> span;  // the nearest taps of the trace this one was recomputed from
  std::int64_t rows = 0;          // rows compared
  std::int64_t inherited =
      0;                      // of them, rows that read values of ours where the trace exposes none
  std::int64_t replays = 0;   // rows whose legal, different decision was replayed
  double margin = 0;          // widest score gap among the replayed decisions
  std::int64_t elements = 0;  // values compared (rows that only an ensemble could judge apart)
  std::int64_t equal = 0;     // of them, without any difference
  double spread = 0;          // largest distance between the trace and a repeat of its run
  double spread_ratio = 0;    // the same in units of each element's bound
  std::int64_t noisy_rows = 0;  // rows of a discrete tap in which a repeat chose differently
  std::int64_t behind_choices =
      0;  // rows behind a choice that the trace does not show and that can fall either way
};

struct Report {
  std::string mode, rounding, trace, model, backend;
  std::string names;            // table of the port's own names; empty: ours
  std::vector<Result> results;  // in the order of the forward pass, call by call
  std::vector<std::string> notes;
  std::vector<std::string> declared;  // deviations that the port declares (--arith)
  std::vector<std::string> repeats;   // further traces of the same run
  double seconds_compute = 0, seconds_compare = 0, seconds_read = 0;
  std::int64_t bytes_compared = 0;

  std::map<std::string, std::int64_t> counts() const;
  const Result* first_difference() const;  // least (layer, stage, position); null: none
  // The first dataset whose repeats are further apart than its bound; null: none.
  const Result* first_unstable() const;
  bool nothing_compared() const;  // neither PASSED nor FAILED
  int exit_code() const;          // 0 all compared passed, 1 a difference, 3 nothing was compared
};

}  // namespace dsv4::conformance
