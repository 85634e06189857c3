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

namespace dsv4::bugs {

// A dataset: tap and call of the trace.
using Place = std::pair<std::string, int>;

struct Residual {
  double squares = 0;  // sum of squares of trace - run, masks that differ by the largest magnitude
  double worst = 0;
  std::int64_t count = 0;
};

// How much of a trace is read.
struct Extent {
  std::int64_t last_layer = -1;  // -1: all, then the head
  std::size_t calls = 0;         // of the plan; 0: all
  // The only tap that is judged, whose differences are kept element by element; empty: all are
  // judged, none kept. A bound costs as much as the value, so this halves the work.
  std::string only = {};
};

struct Reading {
  std::map<Place, Residual> residuals;
  std::vector<conformance::Result> results;
  std::vector<double> kept;  // trace - run at the only tap, in the order of the run
  bool crashed = false;      // the run ended with an exception
};

Reading read(const golden::TraceFile& trace, const Checkpoint& checkpoint,
             conformance::Backend& backend, const Numerics& numerics, const Extent& extent);

// First of the failed results in the order of the forward pass; null: none.
const conformance::Result* first_failed(const std::vector<conformance::Result>& results);

}  // namespace dsv4::bugs
