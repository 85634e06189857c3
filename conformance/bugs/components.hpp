// SPDX-License-Identifier: Apache-2.0
// Case files (golden/cases): one component, its inputs, and what it must give. Run on the planted
// copy, so that each case can show which bugs it kills; with none thrown the copy is the reference.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"

namespace dsv4::bugs {

using Arrays = std::map<std::string, Mat>;  // the first axis as rows; vectors are one row

struct ComponentCase {
  std::string id, component;
  std::map<std::string, double> config;
  Arrays inputs, expected, bound;  // of float64; no bound: exact
};

// Throws TraceError for a file that is no case/1.
ComponentCase read_component_case(const std::filesystem::path& file);
Arrays run_component(const ComponentCase& c, std::span<const std::size_t> thrown);

struct Miss {
  std::string name;  // of the expected array
  double error = 0;
  double bound = 0;
};
// What lies outside its bound, or is missing. Empty: all is right.
std::vector<Miss> misses(const ComponentCase& c, const Arrays& got);

}  // namespace dsv4::bugs
