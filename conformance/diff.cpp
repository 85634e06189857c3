// SPDX-License-Identifier: Apache-2.0
#include "conformance/diff.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <set>

#include "conformance/trace_table.hpp"
#include "core/config.hpp"

namespace dsv4::conformance {
namespace {

class TapDifference {
 public:
  TapDifference(std::string tap, int order, bool grows) : grows_(grows) {
    d_.tap = std::move(tap);
    d_.order = order;
  }

  void add(const RowRef& a, const RowRef& b, std::int64_t position) {
    // Axes that grow with the call (entries, choices, window) may differ in width; nothing else
    // may.
    const auto& shape_a = a.slot->info->shape;
    const auto& shape_b = b.slot->info->shape;
    if (a.slot->width != b.slot->width && (!grows_ || shape_a.size() != 2 || shape_b.size() != 2)) {
      d_.problem = fmt::format("{} values a row against {}", a.slot->width, b.slot->width);
      return;
    }
    ++d_.rows;
    magnitude_ = std::max(magnitude_, a.slot->magnitude);
    unit_ = std::max({unit_, a.slot->precision.unit, b.slot->precision.unit});
    if (a.slot->info->integer) return add_set(a, b, position);
    // A column that one side does not have is one that the query may not look at.
    const auto value = [](const RowRef& r, std::int64_t c) {
      return c < r.slot->width ? r.slot->values[static_cast<std::size_t>(r.row * r.slot->width + c)]
                               : -INFINITY;
    };
    for (std::int64_t c = 0; c < std::max(a.slot->width, b.slot->width); ++c) {
      add_value(value(a, c), value(b, c), position, c);
    }
  }

  Difference result() {
    d_.relative = d_.max_error == 0 ? 0 : magnitude_ > 0 ? d_.max_error / magnitude_ : d_.max_error;
    d_.rms = values_ > 0 ? std::sqrt(squares_ / static_cast<double>(values_)) : 0;
    d_.cosine_distance = aa_ + bb_ > 0 ? 1 - 2 * ab_ / (aa_ + bb_) : 0;
    return d_;
  }

 private:
  void add_value(double x, double y, std::int64_t position, std::int64_t column) {
    if (x == y || (std::isnan(x) && std::isnan(y))) x = y = std::isfinite(x) ? x : 0;
    const double error = std::isfinite(x) && std::isfinite(y) ? std::abs(x - y) : INFINITY;
    ++values_;
    squares_ += error * error;
    if (std::isfinite(error)) aa_ += x * x, bb_ += y * y, ab_ += x * y;
    if (error > d_.max_error || d_.position < 0) {
      d_.max_error = error;
      d_.position = position;
      d_.column = column;
    }
    const double ulp =
        2 * unit_ * std::exp2(std::floor(std::log2(std::max(std::abs(x), std::abs(y)))));
    if (error > 0 && ulp > 0) d_.ulps = std::max(d_.ulps, error / ulp);
  }

  void add_set(const RowRef& a, const RowRef& b, std::int64_t position) {
    const auto set = [](const RowRef& r) {
      const auto from = r.slot->integers.begin() + r.row * r.slot->width;
      std::set<std::int64_t> chosen(from, from + r.slot->width);
      chosen.erase(-1);
      return chosen;
    };
    const double error = set(a) == set(b) ? 0 : 1;
    if (error > d_.max_error || d_.position < 0) {
      d_.max_error = error;
      d_.position = position;
    }
  }

  Difference d_;
  bool grows_;
  double magnitude_ = 0, unit_ = 0, squares_ = 0, aa_ = 0, bb_ = 0, ab_ = 0;
  std::int64_t values_ = 0;
};

}  // namespace

std::vector<Difference> diff(const golden::TraceFile& a, const golden::TraceFile& b) {
  const ModelConfig config = parse_config(a.attributes().config_json, a.path().string()).config;
  TraceTable ta(a, config);
  TraceTable tb(b, config);
  std::set<std::string> names;
  for (const Slot& s : ta.slots()) names.insert(s.info->name);
  for (const Slot& s : tb.slots()) names.insert(s.info->name);
  std::vector<Difference> out;
  for (const std::string& tap : names) {
    const auto m = find_tap(tap, static_cast<int>(config.n_layers));
    const int block = !m ? 1 << 20 : m->block >= 0 ? m->block : tap == "embed" ? -1 : 1 << 19;
    const std::string last = m && !m->info->axes.empty() ? m->info->axes.back() : "";
    TapDifference d(tap, block * 1024 + (m ? m->info->order : 0),
                    last == "t" || last == "k" || last == "u");
    for (Slot& s : ta.slots()) {
      if (s.info->name != tap) continue;
      ta.load(s);
      for (std::size_t r = 0; r < s.keys.size(); ++r) {
        const RowRef other = tb.find(tap, s.keys[r]);
        if (other.slot) d.add({&s, static_cast<std::int64_t>(r)}, other, s.keys[r]);
      }
    }
    out.push_back(d.result());
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& x, const auto& y) { return x.order < y.order; });
  return out;
}

}  // namespace dsv4::conformance
