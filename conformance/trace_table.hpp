// SPDX-License-Identifier: Apache-2.0
// A trace's rows, found by tap and absolute position whatever the calls they were written in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conformance/backend.hpp"
#include "conformance/roundings.hpp"
#include "conformance/tolerance.hpp"
#include "core/config.hpp"
#include "core/taps.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::conformance {

// One dataset of the trace and how its rows are numbered.
struct Slot {
  std::size_t call = 0;  // in the trace
  const golden::DatasetInfo* info = nullptr;
  std::vector<std::int64_t> keys;  // per row: absolute position, or entry number; ascending
  std::int64_t first_key = 0;      // of the first row, also where there is none
  std::int64_t width = 1;          // values per row
  bool choice = false;             // indices; codes are integers and no choice of that kind
  Precision precision;
  Sum sum;  // behind its values
  RoundingModel roundings;
  std::string problem;         // not empty: a known tap of a wrong shape; never compared
  bool other_entries = false;  // the problem: not the entries that the call should complete
  std::int64_t expected_rows = -1;

  // Loaded on first use.
  bool loaded = false;
  std::vector<double> values;          // codes and scales too: they are compared as numbers
  std::vector<std::int64_t> integers;  // of choices
  double magnitude = 0;                // largest finite |value|
};

struct RowRef {
  Slot* slot = nullptr;
  std::int64_t row = 0;
};

class TraceTable {
 public:
  TraceTable(const golden::TraceFile& file, const ModelConfig& config,
             Products products = Products::fp32);

  const std::vector<Call>& calls() const { return calls_; }  // of the trace, with inferred ends
  std::vector<Slot>& slots() { return slots_; }
  bool exposes(const std::string& tap) const { return by_tap_.contains(tap); }
  bool exposes_prefix(const std::string& prefix) const;
  // The row of a tap; slot null: absent. Loads the dataset.
  RowRef find(const std::string& tap, std::int64_t key);
  // The dataset of a tap in a call; null: absent.
  Slot* slot(const std::string& tap, std::size_t call);
  void load(Slot& slot);
  // Forgets the values of datasets that end before this position, unless they are to be kept.
  void release_before(std::int64_t position);
  // For a table that is read again and again.
  void keep_values() { keeps_ = true; }

  // What the files says of how it was computed.
  bool official() const { return file_.attributes().rounding == "official"; }
  Products products() const { return products_; }
  std::int64_t id_count() const { return std::ssize(file_.input_ids()); }

  double seconds_read = 0;

 private:
  void infer_calls();
  void number_rows(Slot& slot);
  void number_expert_rows(Slot& slot);
  std::int64_t call_length(std::size_t call, std::int64_t limit) const;

  const golden::TraceFile& file_;
  const ModelConfig& config_;
  Products products_;
  std::vector<Call> calls_;
  std::vector<Slot> slots_;
  std::map<std::string, std::vector<std::size_t>> by_tap_;  // slots in call order
  bool keeps_ = false;
};

// The calls a reference must run so that it sees what the trace saw: the trace's own, with gaps
// filled; or the given chunks. Throws UsageError when the chunks do not add up, TraceError when
// calls overlap.
std::vector<Call> plan_calls(const TraceTable& table, const std::vector<std::int64_t>& chunks);

}  // namespace dsv4::conformance
