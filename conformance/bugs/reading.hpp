// SPDX-License-Identifier: Apache-2.0
// One run of a backend over a trace's own calls, every stage from the trace's own inputs, and how
// far each dataset of the trace lies from it. Nothing is judged by an ensemble here: a reading is
// cheap, so that hundreds of suspects can be read.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "conformance/runner.hpp"
#include "conformance/trace_table.hpp"

namespace dsv4::bugs {

// A dataset: tap and call of the trace.
using Place = std::pair<std::string, int>;

struct Residual {
  double squares = 0;  // sum of squares of trace - run, masks that differ by the largest magnitude
  double worst = 0;
  std::int64_t count = 0;
};

struct Reading {
  std::map<Place, Residual> residuals;
  std::vector<conformance::Result> results;
  std::vector<double> kept;  // trace - run at the only tap, a sample in the order of the run
  bool crashed = false;      // the run ended with an exception, or ended its process
  bool spoils = false;       // Judge::spoils, where `results` are no longer all of them
};

// What a run leaves for later ones, which need not repeat it from the start: the streams that enter
// each block, and where it came past the planted text of which bug. What a bug changes begins
// there.
struct History {
  std::map<std::pair<std::int64_t, std::int64_t>, Mat> entering;  // layer and start of a call
  std::map<std::size_t, std::int64_t>
      passed;  // bug -> first layer; behind the last block: n_layers
};

// How much of a trace is read.
struct Extent {
  std::int64_t first_layer = 0;      // entered by the trace's own streams, or by those of `history`
  std::int64_t last_layer = -1;      // -1: all, then the head
  std::size_t calls = 0;             // of the plan; 0: all
  const History* history = nullptr;  // of a run with the same calls; must have this first layer
  // The only tap that is judged, whose differences are kept element by element; empty: all are
  // judged, none kept. A bound costs as much as the value, so this halves the work.
  std::string only = {};
};

class Reader {
 public:
  Reader(const golden::TraceFile& trace, const Checkpoint& checkpoint, Numerics numerics);

  Reading read(conformance::Backend& backend, const Extent& extent);
  // The same of a mutant, on one thread; fills `history`.
  Reading read(conformance::Backend& backend, const Extent& extent, History& history);

  // The last layer up to `layer` that every token of the first calls enters in the trace itself:
  // what comes before cannot matter to what comes after.
  std::int64_t first_needed(std::int64_t layer, std::size_t calls);
  conformance::TraceTable& table() { return table_; }
  // Values are in memory, and no run reads the file.
  bool in_memory() const { return in_memory_; }

 private:
  class Measure;
  Reading run(conformance::Backend& backend, const Extent& extent, History* history);
  conformance::Case request(const Extent& extent) const;
  std::function<Mat(const conformance::Call&)> streams(const Extent& extent);
  conformance::RowRef entering(std::int64_t layer, std::int64_t position);

  const golden::TraceFile& trace_;
  const Checkpoint& checkpoint_;
  Numerics numerics_;
  conformance::TraceTable table_;
  std::vector<std::string> problems_;  // of the table's slots, before any run
  bool in_memory_ = false;
};

// To send a reading from one process to another.
std::string packed(const Reading& reading);
Reading unpacked(const std::string& bytes);

// First of the failed results in the order of the forward pass; null: none.
const conformance::Result* first_failed(const std::vector<conformance::Result>& results);

}  // namespace dsv4::bugs
