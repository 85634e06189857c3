// SPDX-License-Identifier: Apache-2.0
#include "cli/named_trace.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <unistd.h>

#include "core/error.hpp"
#include "golden/alias.hpp"

namespace dsv4::cli {
namespace {

void require_file(const std::string& path, std::string_view option, const char* hint) {
  const bool folder = std::filesystem::is_directory(path);
  if (!folder && std::ifstream(path)) return;
  throw IoError(fmt::format("{}{}: {}", option, path, std::strerror(folder ? EISDIR : errno)),
                hint);
}

}  // namespace

NamedTrace::NamedTrace(const std::string& trace, const std::string& table) {
  require_file(trace, "",
               "expected a trace file (HDF5): `dsv4 trace` writes one, golden/schema.md says how a "
               "port does");
  if (table.empty()) {
    file_.emplace(trace);
    return;
  }
  static std::atomic<int> copies = 0;
  require_file(
      table, "--names ",
      "expected a table of three columns, theirs, ours, transform: docs/diagnose.md has one");
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
