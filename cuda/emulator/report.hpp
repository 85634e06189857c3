// SPDX-License-Identifier: Apache-2.0
// What the emulator found while a kernel ran: everything that is undefined on a GPU is a finding.
#pragma once

#include <cstdint>
#include <map>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::emulator {

using Where = std::source_location;

enum class Kind : std::uint8_t {
  race,           // two accesses of one place, one of them a write, with nothing that orders them
  deadlock,       // every thread that has not finished waits
  divergence,     // lanes of a warp at different operations that need all of them
  out_of_bounds,  // outside shared memory and of every registered buffer, or a write to a constant
  misaligned,
  uninitialised,  // shared memory read before anything was written there
  misuse          // an operation's own rule is broken; the text says which
};

std::string_view name(Kind kind);

struct Finding {
  Kind kind;
  std::string text;  // thread, operation, source line; for races those of both sides
};

struct Report {
  std::vector<Finding> findings;  // the first kMostFindings
  std::int64_t found = 0;         // all
  std::int64_t mma = 0;           // multiply-adds of tensor cores
  std::int64_t switches = 0;      // of fibers
  // By line that touches shared memory: how often the worst part of a warp must go, 1 without bank
  // conflicts. Only where Options ask for it.
  std::map<std::string, int> turns;

  static constexpr std::size_t kMostFindings = 16;

  bool clean() const { return found == 0; }
  bool has(Kind kind) const;
  std::string text() const;
  void add(Kind kind, std::string text);
};

// Thrown by launch() when a report is not clean.
class Fault : public std::runtime_error {
 public:
  explicit Fault(Report r) : std::runtime_error(r.text()), report(std::move(r)) {}
  Report report;
};

std::string text(const Where& at);  // "kernel.hpp:41"

}  // namespace dsv4::emulator
