// SPDX-License-Identifier: Apache-2.0
// A sink that keeps every value it is given, its error bound if asked, and may change values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/trace.hpp"

namespace dsv4::testing {

struct Record {
  std::string axes;
  std::vector<std::int64_t> shape;
  std::vector<Real> values;
  std::vector<Real> error;  // empty: exact, or not asked for
  bool exact = true;        // no error function was given
  bool integer = false;
  int count = 0;  // how often the tap was reported

  std::size_t rows() const {
    return shape.empty() || axes == "v" ? 1 : static_cast<std::size_t>(shape.front());
  }
  std::size_t row_size() const { return rows() == 0 ? 0 : values.size() / rows(); }
};

class Recorder : public TapSink {
 public:
  bool keep_errors = false;
  std::function<bool(std::string_view)> wanted = [](std::string_view) { return true; };
  std::function<void(std::string_view, std::span<Real>)> change_values;
  std::function<void(std::string_view, std::span<std::int32_t>, const IndexEvent&)> change_indices;

  // If set: every tap but `free` hands on the value of that earlier run, after recording its own.
  const Recorder* pinned_to = nullptr;
  std::string free;

  std::map<std::string, Record, std::less<>> records;
  std::vector<std::string> order;
  std::vector<std::pair<std::int64_t, std::int64_t>> calls;

  const Record& at(std::string_view name) const {
    const auto found = records.find(name);
    if (found == records.end()) throw std::out_of_range("no tap " + std::string(name));
    return found->second;
  }
  // The recorded values as a matrix: first axis by the product of the others.
  Mat matrix(std::string_view name) const { return as_matrix(at(name), at(name).values); }
  Mat error(std::string_view name) const { return as_matrix(at(name), at(name).error); }

  void on_value(TapEvent& event) override {
    if (change_values) change_values(event.name, event.values);
    Record& r = add(event.name, event.axes, event.shape);
    r.values.assign(event.values.begin(), event.values.end());
    r.exact = !event.error;
    if (keep_errors && event.error) {
      const Mat e = event.error();
      r.error.assign(e.data(), e.data() + e.size());
    }
    pin(event.name, event.values);
  }
  void on_index(IndexEvent& event) override {
    if (change_indices) change_indices(event.name, event.values, event);
    Record& r = add(event.name, event.axes, event.shape);
    r.values.assign(event.values.begin(), event.values.end());
    r.integer = true;
    pin(event.name, event.values);
  }
  void on_call(std::int64_t start, std::int64_t end) override { calls.emplace_back(start, end); }
  bool wants(std::string_view name) const override { return wanted(name); }

 private:
  static Mat as_matrix(const Record& r, const std::vector<Real>& values) {
    return Eigen::Map<const Mat>(values.data(), static_cast<Index>(r.rows()),
                                 static_cast<Index>(r.row_size()));
  }
  template <class T>
  void pin(std::string_view name, std::span<T> values) const {
    if (!pinned_to || name == free) return;
    const auto found = pinned_to->records.find(name);
    if (found == pinned_to->records.end() || found->second.values.size() != values.size()) return;
    std::ranges::transform(found->second.values, values.begin(),
                           [](Real v) { return static_cast<T>(v); });
  }
  Record& add(std::string_view name, std::string_view axes, std::span<const std::int64_t> shape) {
    Record& r = records[std::string(name)];
    if (r.count++ == 0) order.emplace_back(name);
    r.axes = axes;
    r.shape.assign(shape.begin(), shape.end());
    return r;
  }
};

}  // namespace dsv4::testing
