// SPDX-License-Identifier: Apache-2.0
#include "conformance/report_html.hpp"

#include "conformance/report.hpp"
#include "conformance/report_layout.hpp"
#include "conformance/report_page.hpp"

namespace dsv4::conformance {
namespace {

// JSON inside a script element: no "<" can end the element early.
std::string for_script(const nlohmann::ordered_json& j) {
  std::string out;
  for (const char c : j.dump()) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string headline(const Report& report) {
  if (const Result* first = report.first_difference()) return "First difference: " + first->tap;
  return report.nothing_compared() ? "Nothing was compared" : "No difference found";
}

}  // namespace

std::string to_html(const Report& report, const ModelConfig& config) {
  nlohmann::ordered_json j = to_json(report);
  j["headline"] = headline(report);
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Result& r = report.results[i];
    auto& item = j["results"][i];
    item["part"] = part_of(r);
    item["block"] = r.block;
    item["order"] = r.order;
    item["title"] = layer_title(r, config);
    item["stage"] = stage_name(r);
    item["again"] = repro(report, r);
  }
  constexpr std::string_view place = "__REPORT__";
  std::string page(report_page());
  return page.replace(page.find(place), place.size(), for_script(j));
}

}  // namespace dsv4::conformance
