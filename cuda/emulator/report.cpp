// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulator/report.hpp"

#include <algorithm>

namespace dsv4::emulator {

std::string_view name(Kind kind) {
  switch (kind) {
    case Kind::race:
      return "race";
    case Kind::deadlock:
      return "deadlock";
    case Kind::divergence:
      return "divergence";
    case Kind::out_of_bounds:
      return "out of bounds";
    case Kind::misaligned:
      return "misaligned";
    case Kind::uninitialised:
      return "uninitialised";
    case Kind::misuse:
      return "misuse";
  }
  return "?";
}

std::string text(const Where& at) {
  std::string_view file = at.file_name();
  if (const auto slash = file.rfind('/'); slash != std::string_view::npos) {
    file.remove_prefix(slash + 1);
  }
  return std::string(file) + ":" + std::to_string(at.line());
}

bool Report::has(Kind kind) const {
  return std::any_of(findings.begin(), findings.end(),
                     [&](const Finding& f) { return f.kind == kind; });
}

std::string Report::text() const {
  std::string out;
  for (const Finding& f : findings) {
    out += std::string(name(f.kind)) + ": " + f.text + "\n";
  }
  if (found > static_cast<std::int64_t>(findings.size())) {
    out += "… " + std::to_string(found) + " findings in all\n";
  }
  return out;
}

// One finding per kind and place: "thread 3 of block 0, …" and "thread 4 of block 0, …" are one.
void Report::add(Kind kind, std::string text) {
  const auto place = [](const std::string& t) { return t.substr(std::min(t.find(','), t.size())); };
  ++found;
  const bool known = std::any_of(findings.begin(), findings.end(), [&](const Finding& f) {
    return f.kind == kind && place(f.text) == place(text);
  });
  if (findings.size() < kMostFindings && !known) findings.push_back({kind, std::move(text)});
}

}  // namespace dsv4::emulator
