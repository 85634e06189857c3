// SPDX-License-Identifier: Apache-2.0
// Reading and judging of case files.
#include <cmath>

#include <nlohmann/json.hpp>

#include "conformance/bugs/components.hpp"
#include "core/error.hpp"
#include "golden/hdf5.hpp"

namespace dsv4::bugs {
namespace {

Arrays arrays(const golden::hdf5::Group& root, const std::string& part) {
  Arrays out;
  const auto slash = part.find('/');
  if (!root.child(part.substr(0, slash))) return out;
  golden::hdf5::Group group = root.group(part.substr(0, slash));
  if (slash != std::string::npos) return arrays(group, part.substr(slash + 1));
  for (const auto& child : group.children()) {
    const golden::hdf5::Dataset data = group.dataset(child.name);
    const std::vector<double> values = data.read_doubles();
    const auto& shape = data.shape();
    const Index rows = shape.size() > 1 ? shape[0] : 1;
    const Index columns = std::ssize(values) / std::max<Index>(1, rows);
    Mat& m = out[child.name] = Mat(rows, columns);
    for (std::size_t i = 0; i < values.size(); ++i) m.data()[i] = static_cast<Real>(values[i]);
  }
  return out;
}

}  // namespace

ComponentCase read_component_case(const std::filesystem::path& file) {
  const auto open = golden::hdf5::File::open(file);
  const golden::hdf5::Group root = open.root();
  if (root.text("dsv4_schema") != "case/1") {
    throw TraceError(file.string() + ": not a case file", "expected dsv4_schema = \"case/1\"");
  }
  ComponentCase c;
  c.id = root.text("id").value_or("");
  c.component = root.text("component").value_or("");
  const auto config = nlohmann::json::parse(root.text("config_json").value_or("{}"));
  for (const auto& [key, value] : config.items()) c.config[key] = value.get<double>();
  c.inputs = arrays(root, "inputs");
  c.expected = arrays(root, "expected");
  c.bound = arrays(root, "bound/fp64");
  return c;
}

std::vector<Miss> misses(const ComponentCase& c, const Arrays& got) {
  std::vector<Miss> out;
  for (const auto& [name, expected] : c.expected) {
    const auto it = got.find(name);
    if (it == got.end() || it->second.size() != expected.size()) {
      out.push_back({name, INFINITY, 0});
      continue;
    }
    const auto allowed = c.bound.find(name);
    Miss worst{name, -1, 0};
    for (Index i = 0; i < expected.size(); ++i) {
      const auto a = static_cast<double>(it->second.data()[i]);
      const auto b = static_cast<double>(expected.data()[i]);
      const bool same = a == b || (std::isnan(a) && std::isnan(b));
      const double error = same                                   ? 0
                           : std::isfinite(a) && std::isfinite(b) ? std::abs(a - b)
                                                                  : INFINITY;
      const double bound =
          allowed == c.bound.end() ? 0 : static_cast<double>(allowed->second.data()[i]);
      if (error > bound && error > worst.error) worst = {name, error, bound};
    }
    if (worst.error >= 0) out.push_back(worst);
  }
  return out;
}

}  // namespace dsv4::bugs
