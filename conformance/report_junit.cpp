// SPDX-License-Identifier: Apache-2.0
#include "conformance/report_junit.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <tuple>
#include <vector>

#include "conformance/report_layout.hpp"

namespace dsv4::conformance {
namespace {

// Text inside an attribute or element. Control characters, which XML 1.0 forbids, become '?'.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  }
  return out;
}

std::string message(const Result& r) {
  if (!r.reason.empty()) return r.reason;
  return fmt::format("error {:.3e}, bound {:.3e} at position {} [{}]", r.error, r.bound, r.position,
                     fmt::join(r.index, ","));
}

std::string test_case(const Report& report, const Result& r) {
  const std::string head =
      fmt::format("    <testcase classname=\"{}\" name=\"call {}\"", escaped(r.tap), r.call);
  if (r.verdict == Verdict::passed) return head + "/>\n";
  if (r.verdict == Verdict::failed) {
    return fmt::format(
        "{}>\n      <failure message=\"{}\">ours {:.17g}, trace {:.17g}\nspan: {}\n"
        "again: {}</failure>\n    </testcase>\n",
        head, escaped(message(r)), r.ours, r.theirs,
        escaped(fmt::format("{}", fmt::join(r.span, ", "))), escaped(repro(report, r)));
  }
  return fmt::format("{}>\n      <skipped message=\"{}: {}\"/>\n    </testcase>\n", head,
                     name(r.verdict), escaped(r.reason));
}

struct Suite {
  std::string title, cases;
  int tests = 0, failures = 0, skipped = 0;

  void add(const Report& report, const Result& r) {
    ++tests;
    if (r.verdict == Verdict::failed) ++failures;
    if (r.verdict != Verdict::failed && r.verdict != Verdict::passed) ++skipped;
    cases += test_case(report, r);
  }
};

// A run that compared nothing must not look like a green one: no failures, and perhaps no tests.
std::string nothing_compared(const Report& report) {
  return fmt::format(
      "  <testsuite name=\"verify\" tests=\"1\" failures=\"0\" skipped=\"0\" errors=\"1\">\n"
      "    <testcase classname=\"verify\" name=\"something was compared\">\n"
      "      <error message=\"nothing was compared\">{}</error>\n    </testcase>\n"
      "  </testsuite>\n",
      escaped(fmt::format("{} datasets of the trace or stages that it lacks, none of them PASSED "
                          "or FAILED",
                          report.results.size())));
}

}  // namespace

std::string to_junit(const Report& report, const ModelConfig& config) {
  std::map<std::pair<int, int>, Suite> suites;  // part, block
  Suite total;
  for (const Result& r : report.results) {
    if (r.verdict == Verdict::absent) continue;
    Suite& suite = suites[{part_of(r), r.block}];
    suite.title = layer_title(r, config);
    suite.add(report, r);
    total.add(report, r);
  }
  const bool nothing = report.nothing_compared();
  std::string xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  xml += fmt::format(
      "<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"{}\">\n",
      escaped(fmt::format("dsv4 verify {} --mode {}", report.trace, report.mode)),
      total.tests + (nothing ? 1 : 0), total.failures, total.skipped, nothing ? 1 : 0);
  for (const auto& [key, s] : suites) {
    xml += fmt::format(
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" errors=\"0\">\n{}"
        "  </testsuite>\n",
        escaped(s.title), s.tests, s.failures, s.skipped, s.cases);
  }
  if (nothing) xml += nothing_compared(report);
  return xml + "</testsuites>\n";
}

}  // namespace dsv4::conformance
