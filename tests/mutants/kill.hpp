// SPDX-License-Identifier: Apache-2.0
// Throws the switches of planted bugs and lets the suite judge what comes out.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "conformance/bugs/components.hpp"
#include "conformance/bugs/mutants.hpp"
#include "conformance/verdict.hpp"
#include "core/weights.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::testing {

// Where a mutant was caught.
struct Kill {
  bool killed = false;
  std::string tap;     // template of the first difference: "layers.L.attn.q"
  std::string detail;  // its full name, error and bound; or the exception
};

// The cases of golden/bundle.json, each with its model; opened once.
class Cases {
 public:
  Cases();
  Kill run(std::span<const std::size_t> bugs, const std::string& golden);
  std::vector<std::string> names() const;
  const golden::TraceFile& trace(const std::string& golden);
  const Checkpoint& model_of(const std::string& golden);

 private:
  std::filesystem::path root_;
  std::map<std::string, std::string> models_;  // golden -> directory
  std::map<std::string, std::unique_ptr<golden::TraceFile>> traces_;
  std::map<std::string, std::unique_ptr<Checkpoint>> checkpoints_;
};

// Every case of golden/cases, by id.
std::vector<bugs::ComponentCase> component_cases();
bool kills(const bugs::ComponentCase& c, std::size_t bug);

// On a golden, or on "cases/ID".
Kill kill(Cases& cases, std::span<const std::size_t> bugs, const std::string& name);

// Whether conformance/bugs/kills.tsv says of this pair if the case kills the bug.
bool measured(const bugs::Bug& bug, const std::string& name);

}  // namespace dsv4::testing
