// SPDX-License-Identifier: Apache-2.0
// A trace under our names, whatever the port calls its tensors (--names TABLE).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "golden/trace_file.hpp"

namespace dsv4::cli {

// Holds a translated copy, in the folder of temporary files, as long as it lives. Without a table
// the trace is read as it is. Throws what TraceFile and golden::read_aliases do.
class NamedTrace {
 public:
  NamedTrace(const std::string& trace, const std::string& table);
  ~NamedTrace();
  NamedTrace(const NamedTrace&) = delete;
  NamedTrace& operator=(const NamedTrace&) = delete;

  const golden::TraceFile& file() const { return *file_; }
  golden::TraceFile take() { return std::move(*file_); }
  // Stages that the table says the port never has (theirs is "-").
  const std::vector<std::string>& not_exposed() const { return not_exposed_; }

 private:
  std::filesystem::path copy_;
  std::optional<golden::TraceFile> file_;
  std::vector<std::string> not_exposed_;
};

}  // namespace dsv4::cli
