// SPDX-License-Identifier: Apache-2.0
#include "cli/named_trace.hpp"

#include <atomic>
#include <fmt/format.h>
#include <unistd.h>

#include "golden/alias.hpp"

namespace dsv4::cli {

NamedTrace::NamedTrace(const std::string& trace, const std::string& table) {
  if (table.empty()) {
    file_.emplace(trace);
    return;
  }
  static std::atomic<int> copies = 0;
  const auto aliases = golden::read_aliases(table);
  copy_ = std::filesystem::temp_directory_path() /
          fmt::format("dsv4-names-{}-{}.h5", getpid(), ++copies);
  file_.emplace(golden::renamed(golden::TraceFile(trace), aliases, copy_));
  not_exposed_ = golden::not_exposed(aliases);
}

NamedTrace::~NamedTrace() {
  file_.reset();
  std::error_code ignored;
  if (!copy_.empty()) std::filesystem::remove(copy_, ignored);
}

}  // namespace dsv4::cli
