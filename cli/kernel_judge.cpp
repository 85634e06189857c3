// SPDX-License-Identifier: Apache-2.0
#include "cli/kernel_judge.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <set>
#include <stdexcept>

#include "conformance/roundings.hpp"
#include "conformance/tolerance.hpp"
#include "core/dtype.hpp"

namespace dsv4::cli {
namespace {

constexpr double kFloat32 = 0x1p-24;

struct Tally {
  KernelResult& result;
  double worst = -1;  // largest error / bound
  conformance::ErrorStatistics statistics = {};

  void add(double error, double bound, std::int64_t i, std::int64_t width) {
    ++result.elements;
    if (error == 0) {
      ++result.equal;
    }
    const double ratio = error == 0 ? 0 : bound > 0 ? error / bound : INFINITY;
    if (!(ratio > worst)) return;
    worst = ratio;
    result.error = error;
    result.bound = bound;
    result.index = {i / width, i % width};
  }
  void conclude() {
    result.rms = statistics.rms();
    result.bias = statistics.bias();
    if (!(worst <= 1)) {
      result.verdict = KernelVerdict::failed;
    } else if (!statistics.within()) {
      result.verdict = KernelVerdict::failed;
      result.reason = fmt::format(
          "errors are {:.2f} times as large as rounding makes them, and lean by {:+.2f}",
          result.rms, result.bias);
    }
    if (result.elements == 0) {
      result.verdict = KernelVerdict::skipped;
      result.reason = "no rows in this call";
    }
  }
};

double distance(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;  // -inf == -inf
  const double d = std::abs(a - b);
  return std::isnan(d) ? INFINITY : d;
}

}  // namespace

void StageJudge::on_value(TapEvent& event) {
  const std::string tap(event.name);
  if (const auto it = given_.find(tap); it != given_.end()) {
    std::copy_n(it->second.data(), event.values.size(), event.values.begin());
    return;
  }
  if (const auto it = kernel_.find(tap); it != kernel_.end()) compare(event, it->second);
}

void StageJudge::compare(TapEvent& event, const Computed& computed) {
  const Mat& ours = computed.value;
  KernelResult& result = begin(std::string(event.name));
  if (static_cast<std::size_t>(ours.size()) != event.values.size()) {
    throw std::logic_error(fmt::format("{}: the kernel has {} values, the reference {}", event.name,
                                       ours.size(), event.values.size()));
  }
  Tally tally{result};
  Mat scale;
  if (event.error) scale = event.error();
  const bool stored = !event.before.empty() && has_grid(event.grid);
  const auto width = static_cast<std::size_t>(ours.cols());
  std::vector<conformance::ErrorStatistics::Element> row(width);
  for (std::size_t i = 0; i < event.values.size(); ++i) {
    const auto value = static_cast<double>(event.values[i]);
    const auto got = static_cast<double>(ours.data()[i]);
    // The kernel's arithmetic is float32, and what it stores without a grid is a float32 too.
    double bound = scale.size() == 0 ? 0 : kFloat32 * static_cast<double>(scale.data()[i]);
    if (event.grid == Format::none && scale.size() != 0) bound += kFloat32 * std::abs(value);
    if (std::isfinite(value)) bound += computed.roundings.exact_stage * kFloat32 * std::abs(value);
    double typical = bound / std::sqrt(3 * computed.roundings.chain), lean = stored ? bound : 0;
    if (const Spread& s = computed.spread; s.typical.size() != 0) {
      typical = kFloat32 * static_cast<double>(s.typical.data()[i]);
      lean = kFloat32 * static_cast<double>(s.lean.data()[i]);
    }
    const double before = stored ? static_cast<double>(event.before[i]) : value;
    const double step = stored ? conformance::spacing(event.grid, before) / std::sqrt(12.0) : 0;
    row[i % width] = {std::copysign(1.0, value) * (got - before), std::hypot(step, typical), lean};
    if (i % width == width - 1) tally.statistics.add_row(row);
    if (stored) bound = conformance::stored_bound(event.grid, before, bound, value, got);
    tally.add(distance(got, value), bound, static_cast<std::int64_t>(i),
              static_cast<std::int64_t>(width));
    event.values[i] = ours.data()[i];
  }
  tally.conclude();
}

KernelResult& StageJudge::begin(const std::string& tap) {
  results_.push_back({});
  results_.back().tap = tap;
  results_.back().call = call_;
  return results_.back();
}

// Choices: the reference ranked the kernel's own scores. The kernel adds the bias in float32, so
// two candidates may change places only if their sums differ by less than those roundings.
void StageJudge::on_index(IndexEvent& event) {
  const std::string tap(event.name);
  const auto it = chosen_.find(tap);
  if (it == chosen_.end()) return;
  const IntMat& ours = it->second;
  Tally tally{begin(tap)};
  const Index k = ours.cols();
  for (Index r = 0; r < ours.rows(); ++r) {
    const auto theirs =
        event.values.subspan(static_cast<std::size_t>(r * k), static_cast<std::size_t>(k));
    const std::set<std::int32_t> expected(theirs.begin(), theirs.end());
    std::set<std::int32_t> got;
    for (Index c = 0; c < k; ++c) got.insert(ours(r, c));
    double gap = 0, band = 0;
    if (got != expected) {
      gap = INFINITY;
      if (event.scores != nullptr && std::ssize(got) == k) {
        Real least = std::numeric_limits<Real>::infinity(), most = -least;
        for (const auto c : got) {
          if (!expected.contains(c)) least = std::min(least, (*event.scores)(r, c));
        }
        for (const auto c : expected) {
          if (!got.contains(c)) most = std::max(most, (*event.scores)(r, c));
        }
        gap = static_cast<double>(most - least);
        band = 2 * kFloat32 * static_cast<double>(std::max(std::abs(most), std::abs(least)));
      }
    }
    tally.add(gap, band, r * k, k);
    for (Index c = 0; c < k; ++c) event.values[static_cast<std::size_t>(r * k + c)] = ours(r, c);
  }
  tally.conclude();
}

void StageJudge::exactly(const std::string& tap, const Mat& kernel, const Mat& expected) {
  Tally tally{begin(tap)};
  for (Index i = 0; i < expected.size(); ++i) {
    tally.add(
        distance(static_cast<double>(kernel.data()[i]), static_cast<double>(expected.data()[i])), 0,
        i, expected.cols());
  }
  tally.conclude();
}

bool legal_head_norm(const Mat& x, const Mat& y, Index heads, Real eps) {
  const Index c = x.cols() / heads;
  const auto neighbours = [](double v, double error) {
    return std::set<double>{static_cast<double>(round_bf16(static_cast<Real>(v - error))),
                            static_cast<double>(round_bf16(static_cast<Real>(v + error)))};
  };
  for (Index row = 0; row < x.rows() * heads; ++row) {
    const Real* in = x.data() + row * c;
    const Real* out = y.data() + row * c;
    double sum = 0;
    for (Index i = 0; i < c; ++i) sum += static_cast<double>(round_bf16(in[i] * in[i]));
    const double mean = sum / static_cast<double>(c);
    bool legal = false;
    // c additions and a division, all of one sign; then one addition, and one root and division.
    for (const double m : neighbours(mean, static_cast<double>(c + 1) * kFloat32 * mean)) {
      const double s = m + static_cast<double>(static_cast<float>(eps));
      for (const double t : neighbours(s, kFloat32 * s)) {
        const double inverse = 1 / std::sqrt(t);
        for (const double r : neighbours(inverse, 2 * kFloat32 * inverse)) {
          bool same = true;
          for (Index i = 0; i < c && same; ++i) {
            same = round_bf16(in[i] * static_cast<Real>(r)) == out[i];
          }
          legal |= same;
        }
      }
    }
    if (!legal) return false;
  }
  return true;
}

}  // namespace dsv4::cli
