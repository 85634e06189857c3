// SPDX-License-Identifier: Apache-2.0
// What the runners of case files share: the inputs of a case in the types of the planted copy, and
// a sink that keeps what a component taps.
#pragma once

#include <algorithm>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "conformance/bugs/components.hpp"
#include "mutants/core/trace.hpp"
#include "mutants/core/weights.hpp"

namespace dsv4::bugs {

using Doubles = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Keeps what a component taps, under the leaf of its name. It asks for nothing, so that stages take
// the paths that they take when nobody looks.
class Keep : public dsv4_mutants::TapSink {
 public:
  void on_call(std::int64_t, std::int64_t) override {}
  bool wants(std::string_view) const override { return false; }
  void on_value(dsv4_mutants::TapEvent& e) override {
    const Index rows = e.shape.empty() ? 1 : e.shape[0];
    taken[leaf(e.name)] = Eigen::Map<const Mat>(e.values.data(), rows,
                                                std::ssize(e.values) / std::max<Index>(1, rows));
  }
  void on_index(dsv4_mutants::IndexEvent& e) override {
    const Eigen::Map<const IntMat> values(e.values.data(), e.shape[0], e.shape[1]);
    taken[leaf(e.name)] = values.cast<Real>();
  }
  Arrays taken;

 private:
  static std::string leaf(std::string_view name) {
    return std::string(name.substr(name.rfind('.') + 1));
  }
};

// Inputs by name, and the settings of the case.
class Given {
 public:
  explicit Given(const ComponentCase& c) : case_(c) {}
  const Mat& operator()(const std::string& name) const { return case_.inputs.at(name); }
  bool has(const std::string& name) const { return case_.inputs.contains(name); }
  Row row(const std::string& name) const { return case_.inputs.at(name).row(0); }
  double number(const std::string& name) const { return case_.config.at(name); }
  std::int64_t whole(const std::string& name) const {
    return static_cast<std::int64_t>(case_.config.at(name));
  }
  // A matrix as a weight; it lives as long as this.
  dsv4_mutants::Weight weight(const std::string& name) { return held(case_.inputs.at(name), name); }
  // Part `index` of a stack of matrices with so many columns each.
  dsv4_mutants::Weight weight(const std::string& name, Index index, Index columns) {
    const Mat& stack = case_.inputs.at(name);
    return held(Eigen::Map<const Mat>(stack.row(index).data(), stack.cols() / columns, columns),
                name);
  }
  template <class T>
  std::vector<T> list(const std::string& name) const {
    const Mat& m = case_.inputs.at(name);
    std::vector<T> out(static_cast<std::size_t>(m.size()));
    std::transform(m.data(), m.data() + m.size(), out.begin(),
                   [](Real v) { return static_cast<T>(v); });
    return out;
  }

 private:
  dsv4_mutants::Weight held(const Mat& m, const std::string& name) {
    held_.push_back(m.cast<double>());
    return dsv4_mutants::as_weight(held_.back(), name);
  }

  const ComponentCase& case_;
  std::list<Doubles> held_;
};

// Rows of several calls under one another; a narrower part is filled up with `pad`.
inline void append(Mat& all, const Mat& part, Real pad = 0) {
  const Index above = all.rows(), width = std::max(all.cols(), part.cols());
  Mat joined = Mat::Constant(above + part.rows(), width, pad);
  joined.topLeftCorner(above, all.cols()) = all;
  joined.bottomLeftCorner(part.rows(), part.cols()) = part;
  all = joined;
}

using Component = std::function<Arrays(Given&)>;
using Components = std::map<std::string, Component>;

const Components& stage_components();      // norms, hyper-connections, experts, number formats
const Components& attention_components();  // compression, selection, attention

}  // namespace dsv4::bugs
