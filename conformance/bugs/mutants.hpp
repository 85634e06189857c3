// SPDX-License-Identifier: Apache-2.0
// The catalogue of known mistakes, and the reference with any of them thrown. The planted copy of
// core/ and reference/ lives beside the true one in the same program, under the namespace
// dsv4_mutants (plant.py); nothing of it is visible here.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "conformance/backend.hpp"

namespace dsv4::bugs {

struct Bug {
  std::string id, title;
  std::string kind;  // reference | loader | equivalent | harness | not applicable; the first three
                     // are planted
  std::string symptom, cause, fix, trigger;
  std::string reason;          // why it is not planted, or cannot be told from the right code
  std::string tap;             // template of the first stage that shows it
  std::string golden;          // the case that kills it
  std::string seen_by_logits;  // "no": a fault that the logits of its case do not show
  std::vector<std::string> links;
  bool systematic = false;  // nobody reported it: made by a rule (systematic.py)
  bool variant = false;     // of a reported one (variants.toml)

  bool planted() const { return kind == "reference" || kind == "loader" || kind == "equivalent"; }
};

// Index in it = number of the switch.
const std::vector<Bug>& catalogue();
// Throws UsageError for an id that the catalogue does not have.
std::size_t number_of(const std::string& id);

// The reference with these bugs thrown. Switches are global: runs of two mutants must not overlap
// in time. A mistake may end a run with an exception.
std::unique_ptr<conformance::Backend> mutant(std::span<const std::size_t> thrown);

// As long as it lives, mutants choose among equal scores as PyTorch does.
class TorchTies {
 public:
  TorchTies();
  ~TorchTies();
  TorchTies(const TorchTies&) = delete;
  TorchTies& operator=(const TorchTies&) = delete;
};

// As long as it lives, notes which bugs' planted texts the runs of mutants come past, thrown or
// not: a bug whose text is never reached changes nothing. One at a time, and runs without threads.
class Passed {
 public:
  Passed();
  ~Passed();
  Passed(const Passed&) = delete;
  Passed& operator=(const Passed&) = delete;
  std::vector<std::size_t> take();  // since the last time
};

}  // namespace dsv4::bugs
