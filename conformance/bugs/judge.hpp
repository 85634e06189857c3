// SPDX-License-Identifier: Apache-2.0
// What a reading of a suspect says, in the bounds that verify itself used.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "conformance/bugs/reading.hpp"

namespace dsv4::bugs {

class Judge {
 public:
  // `report`: of the true reference, `right`: its reading. Both must outlive this.
  Judge(const conformance::Report& report, const Reading& right);

  // The first difference that the verdict's own bounds do not cover.
  std::optional<conformance::Result> first_left(const Reading& reading) const;
  // Something that is right by the true reference is wrong by this run: whoever made the trace does
  // not have all of this mistake.
  bool spoils(const Reading& reading) const;
  // 1 - |trace - run|^2 / |trace - reference|^2 over all datasets, each scaled by its bound.
  double explained(const Reading& reading) const;
  // The same at one tap.
  double explained_at(const std::string& tap, const Reading& reading) const;
  // Equal numbers: what remains is equal, place by place, or lost in the bounds.
  bool equal(const Reading& a, const Reading& b) const;

  // Not even lost in the bounds: the two runs computed the same.
  static bool same(const Reading& a, const Reading& b);
  static double squares_at(const std::string& tap, const Reading& reading);
  // What remains of those in `before`; a dataset that the run does not reach remains whole.
  static double squares_left(const std::string& tap, const Reading& before, const Reading& after);
  // In the order of the forward pass.
  static bool before(const conformance::Result& a, const conformance::Result& b);

 private:
  bool fails(const conformance::Result& r, const Reading& in) const;
  double scale_of(const Place& place) const;

  const Reading& right_;
  std::map<Place, const conformance::Result*> allowed_;
  std::set<Place> right_fails_;
};

}  // namespace dsv4::bugs
