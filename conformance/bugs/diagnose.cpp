// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/diagnose.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <map>
#include <set>

#include "conformance/bugs/reading.hpp"
#include "conformance/trace_table.hpp"
#include "core/taps.hpp"

namespace dsv4::bugs {
namespace {

using conformance::Result;
using conformance::Verdict;
using Thrown = std::vector<std::size_t>;

// Fixed before any planted trace was judged (tests/mutants/diagnose_test.cpp).
constexpr double kExplained = 0.9;      // of the first difference's squares, to be named
constexpr double kEqualNumbers = 1e-3;  // squares that differ by less, relative: the same numbers
constexpr std::size_t kFullReadings = 24;
constexpr std::size_t kPairs = 24;
constexpr std::size_t kStacked = 3;

struct Suspect {
  Thrown bugs;
  Reading reading;
  double left = 1;  // share of the first difference's squares that remains
};

std::string leaf(std::string_view tap) {
  for (const std::string_view scope : {"layers.L.", "mtp.J."})
    if (tap.starts_with(scope)) return std::string(tap.substr(scope.size()));
  return std::string(tap);
}

// The two hyper-connected sublayers compute the same: a mistake in one is a mistake in both.
std::string sublayer(std::string name) {
  for (const std::string_view scope : {"hc_ffn.", "ffn_norm."}) {
    if (name.starts_with(scope))
      name.replace(0, scope.size(), scope == "hc_ffn." ? "hc_attn." : "attn_norm.");
  }
  return name;
}

class Search {
 public:
  Search(const golden::TraceFile& trace, const Checkpoint& checkpoint,
         conformance::Backend& reference, const DiagnoseOptions& options)
      : trace_(trace),
        checkpoint_(checkpoint),
        reference_(reference),
        options_(options),
        table_(trace, checkpoint.config()),
        begin_(std::chrono::steady_clock::now()) {}

  Diagnosis run() {
    conformance::VerifyOptions v;
    v.arithmetic = options_.arithmetic;
    out_.report = conformance::verify(trace_, checkpoint_, reference_, v);
    const Result* first = out_.report.first_difference();
    if (first == nullptr) return std::move(out_);
    numerics_.rounding = parse_rounding(out_.report.rounding, out_.report.trace);
    numerics_.arithmetic = options_.arithmetic;
    for (const Result& r : out_.report.results) allowed_[{r.tap, r.call}] = &r;
    right_ = read_with(reference_, {});
    search(*first, {}, {});
    return std::move(out_);
  }

 private:
  // ---- running --------------------------------------------------------------------------------

  Reading read_with(conformance::Backend& backend, const Extent& extent) {
    ++out_.runs;
    return read(trace_, checkpoint_, backend, numerics_, extent);
  }

  Reading read_thrown(const Thrown& bugs, const Extent& extent) {
    if (bugs.empty()) return read_with(reference_, extent);
    return read_with(*mutant(bugs), extent);
  }

  // As much of the run as the difference needs.
  Extent extent_of(const Result& at) const {
    Extent e;
    e.only = at.tap;
    const auto& config = checkpoint_.config();
    if (at.tap.starts_with("layers.") && at.block < config.n_layers - 1) e.last_layer = at.block;
    const auto plan = conformance::plan_calls(table_, {});
    const auto& call = table_.calls()[static_cast<std::size_t>(at.call)];
    for (const auto& c : plan) {
      ++e.calls;
      if (c.end >= call.end) break;
    }
    return e;
  }

  bool late() const {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin_;
    return spent.count() > options_.seconds;
  }

  // ---- judging --------------------------------------------------------------------------------

  // Failed, and not only for want of the ensemble that the report's own bound comes from.
  bool fails(const Result& r) const {
    if (r.verdict != Verdict::failed) return false;
    const auto it = allowed_.find({r.tap, r.call});
    return it == allowed_.end() || !r.reason.empty() || !(r.error <= it->second->bound);
  }

  // The first difference that the verdict's own bounds do not cover.
  std::optional<Result> first_left(const Reading& reading) const {
    std::vector<Result> left;
    for (const Result& r : reading.results)
      if (fails(r)) left.push_back(r);
    const Result* first = first_failed(left);
    return first == nullptr ? std::nullopt : std::optional(*first);
  }

  static auto stage(const Result& r) {
    const bool tail = r.block < 0 && r.tap != "embed";
    return std::tuple(r.tap.starts_with("mtp."), tail ? 1 << 20 : r.block, r.order);
  }

  static double squares_at(const Reading& reading, const std::string& tap) {
    double sum = 0;
    for (const auto& [place, r] : reading.residuals)
      if (place.first == tap) sum += r.squares;
    return sum;
  }

  double scale_of(const Place& place) const {
    const auto it = allowed_.find(place);
    if (it == allowed_.end()) return 1;
    const Result& r = *it->second;
    const double bound = std::isfinite(r.bound) ? r.bound : 0;
    const double floor = 0x1p-53 * r.magnitude;
    return std::max(bound, floor) > 0 ? std::max(bound, floor) : 1;
  }

  double explained(const Reading& reading) const {
    double before = 0, after = 0;
    for (const auto& [place, r] : right_.residuals) {
      const double scale = scale_of(place);
      before += r.squares / (scale * scale);
      const auto it = reading.residuals.find(place);
      after += (it == reading.residuals.end() ? r.squares : it->second.squares) / (scale * scale);
    }
    return before > 0 ? std::max(0.0, 1 - after / before) : 0;
  }

  // Equal numbers: what remains is equal, place by place, or lost in the bounds.
  bool equal(const Reading& a, const Reading& b) const {
    return std::all_of(a.residuals.begin(), a.residuals.end(), [&](const auto& item) {
      const auto& [place, r] = item;
      const auto it = b.residuals.find(place);
      if (it == b.residuals.end()) return false;
      const double scale = scale_of(place);
      const double noise = static_cast<double>(r.count) * scale * scale;
      const double apart = std::abs(r.squares - it->second.squares);
      return apart <= noise || apart <= kEqualNumbers * std::max(r.squares, it->second.squares);
    });
  }

  // ---- suspects -------------------------------------------------------------------------------

  // 0: lives where the trace differs, or at a stage on the way there that the trace does not show;
  // 1: anywhere upstream; 2: the rest.
  int tier(const Bug& bug, const Result& at, const TapInfo& info) const {
    const std::string here = sublayer(leaf(info.name));
    const std::string there = sublayer(leaf(bug.tap));
    if (here == there) return 0;
    const auto known = std::find_if(taps().begin(), taps().end(),
                                    [&](const TapInfo& t) { return t.name == bug.tap; });
    if (known == taps().end()) return 1;
    std::string shown = bug.tap;
    if (const auto l = shown.find(".L."); l != shown.npos)
      shown.replace(l + 1, 1, std::to_string(std::max(0, at.block)));
    const bool upstream = known->order <= at.order || !at.tap.starts_with("layers.");
    if (!upstream) return 2;
    return table_.exposes(shown) ? 1 : 0;
  }

  std::vector<std::vector<std::size_t>> tiers(const Result& at, const Thrown& with) const {
    std::vector<std::vector<std::size_t>> out(3);
    const auto m = find_tap(at.tap, static_cast<int>(checkpoint_.config().n_layers));
    if (!m) return out;
    for (std::size_t i = 0; i < catalogue().size(); ++i) {
      const Bug& bug = catalogue()[i];
      if (!bug.planted() || bug.kind == "equivalent") continue;
      if (std::find(with.begin(), with.end(), i) != with.end()) continue;
      out[static_cast<std::size_t>(tier(bug, at, *m->info))].push_back(i);
    }
    return out;
  }

  // Does it explain the first difference, and shows nothing before it?
  bool passes(const Suspect& s, const Result& at) const {
    if (s.reading.crashed || s.left > 1 - kExplained) return false;
    const auto first = first_left(s.reading);
    return !first || stage(*first) > stage(at);
  }

  Suspect screen(const Thrown& bugs, const Extent& extent, const Result& at, double squares) {
    Suspect s{bugs, read_thrown(bugs, extent), 1};
    if (!s.reading.crashed) s.left = squares_at(s.reading, at.tap) / squares;
    return s;
  }

  // ---- the search -----------------------------------------------------------------------------

  void search(const Result& at, const Thrown& with, const std::vector<Part>& parts) {
    const Extent extent = extent_of(at);
    const Reading before = read_thrown(with, extent);
    const double squares = std::max(squares_at(before, at.tap), 1e-300);
    std::vector<Suspect> all;
    for (const auto& suspects : tiers(at, with)) {
      std::vector<Suspect> good;
      for (const std::size_t bug : suspects) {
        if (late()) break;
        Thrown bugs = with;
        bugs.push_back(bug);
        Suspect s = screen(bugs, extent, at, squares);
        (passes(s, at) ? good : all).push_back(std::move(s));
        progress();
      }
      if (settle(at, with, parts, std::move(good))) return;
      if (!with.empty()) return;  // a further mistake is looked for where it shows, not everywhere
    }
    if (settle(at, with, parts, pairs(before, all, extent, at, squares))) return;
    const auto best = std::min_element(
        all.begin(), all.end(), [](const auto& a, const auto& b) { return a.left < b.left; });
    if (best == all.end()) return;
    out_.nearest =
        Explanation{{{at.tap, ids({*best})}}, explained(read_thrown(best->bugs, {})), at.tap};
  }

  // Two mistakes behind one difference: where single ones leave residuals a and b, both together
  // leave about a + b - before. The best of these guesses are run.
  std::vector<Suspect> pairs(const Reading& before, const std::vector<Suspect>& singles,
                             const Extent& extent, const Result& at, double squares) {
    using Vector = Eigen::Map<const Eigen::VectorXd>;
    const auto vector = [](const Reading& r) { return Vector(r.kept.data(), std::ssize(r.kept)); };
    std::vector<const Suspect*> usable;
    for (const Suspect& s : singles) {
      const bool moves = std::abs(s.left - 1) > 1e-9 && s.reading.kept.size() == before.kept.size();
      if (moves && !s.reading.crashed) usable.push_back(&s);
    }
    Eigen::MatrixXd moved(std::ssize(before.kept), std::ssize(usable));
    for (Eigen::Index i = 0; i < moved.cols(); ++i)
      moved.col(i) = vector(before) - vector(usable[static_cast<std::size_t>(i)]->reading);
    const Eigen::MatrixXd gram = moved.transpose() * moved;
    const Eigen::VectorXd along = moved.transpose() * vector(before);
    struct Guess {
      double left;
      Eigen::Index a, b;
    };
    std::vector<Guess> guesses;
    const double whole = vector(before).squaredNorm();
    for (Eigen::Index a = 0; a < moved.cols(); ++a) {
      for (Eigen::Index b = a + 1; b < moved.cols(); ++b) {
        const double left =
            whole - 2 * along(a) - 2 * along(b) + gram(a, a) + gram(b, b) + 2 * gram(a, b);
        const auto tap = [&](Eigen::Index i) {
          return catalogue()[usable[static_cast<std::size_t>(i)]->bugs.back()].tap;
        };
        if (tap(a) != tap(b)) guesses.push_back({left, a, b});
      }
    }
    std::sort(guesses.begin(), guesses.end(),
              [](const Guess& a, const Guess& b) { return a.left < b.left; });
    if (guesses.size() > kPairs) guesses.resize(kPairs);
    std::vector<Suspect> good;
    for (const Guess& g : guesses) {
      if (late()) break;
      const Thrown both = {usable[static_cast<std::size_t>(g.a)]->bugs.back(),
                           usable[static_cast<std::size_t>(g.b)]->bugs.back()};
      Suspect s = screen(both, extent, at, squares);
      if (passes(s, at)) good.push_back(std::move(s));
    }
    return good;
  }

  // Those that explain the first difference, on the whole trace: equal ones become one candidate;
  // one that leaves a later difference is searched for a second mistake.
  bool settle(const Result& at, const Thrown& with, const std::vector<Part>& parts,
              std::vector<Suspect> good) {
    std::stable_sort(good.begin(), good.end(),
                     [](const Suspect& a, const Suspect& b) { return a.left < b.left; });
    if (good.size() > kFullReadings) good.resize(kFullReadings);
    // Screened at one tap; now everything is judged, and nothing may differ before that tap.
    for (Suspect& s : good) s.reading = read_thrown(s.bugs, {});
    std::erase_if(good, [&](const Suspect& s) { return !passes(s, at); });
    if (good.empty()) return false;
    std::vector<std::vector<Suspect>> groups;
    for (Suspect& s : good) {
      const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& g) {
        return equal(g.front().reading, s.reading);
      });
      if (same == groups.end()) {
        groups.emplace_back().push_back(std::move(s));
      } else {
        same->push_back(std::move(s));
      }
    }
    std::stable_sort(groups.begin(), groups.end(), [&](const auto& a, const auto& b) {
      return rank(a.front()) > rank(b.front());
    });
    const bool complete = !first_left(groups.front().front().reading);
    for (const auto& group : groups) {
      const Suspect& s = group.front();
      const auto left = first_left(s.reading);
      if (complete && left) break;  // another explains everything
      Explanation e{parts, explained(s.reading), left ? left->tap : std::string{}};
      for (Part& p : parts_of(at, with, group)) e.parts.push_back(std::move(p));
      const std::size_t named = out_.candidates.size();
      if (left && e.parts.size() < kStacked && stage(*left) > stage(at))
        search(*left, s.bugs, e.parts);
      if (out_.candidates.size() == named) out_.candidates.push_back(std::move(e));
      if (!complete) break;  // the best of those that explain a part
    }
    return true;
  }

  std::pair<bool, double> rank(const Suspect& s) const {
    return {!first_left(s.reading), explained(s.reading)};
  }

  // A pair that was found at one difference has two parts.
  static std::vector<Part> parts_of(const Result& at, const Thrown& with,
                                    const std::vector<Suspect>& group) {
    const std::size_t added = group.front().bugs.size() - with.size();
    if (added == 1) return {{at.tap, ids(group)}};
    std::vector<Part> out(added);
    for (std::size_t k = 0; k < added; ++k) {
      std::set<std::size_t> bugs;
      for (const Suspect& s : group) bugs.insert(s.bugs[with.size() + k]);
      out[k].tap = catalogue()[group.front().bugs[with.size() + k]].tap;
      for (const std::size_t b : bugs) out[k].ids.push_back(catalogue()[b].id);
    }
    return out;
  }

  // Reported bugs first, systematic ones behind them.
  static std::vector<std::string> ids(const std::vector<Suspect>& group) {
    std::vector<std::size_t> bugs;
    for (const Suspect& s : group) bugs.push_back(s.bugs.back());
    std::sort(bugs.begin(), bugs.end(), [](std::size_t a, std::size_t b) {
      return std::tuple(catalogue()[a].systematic, a) < std::tuple(catalogue()[b].systematic, b);
    });
    std::vector<std::string> out;
    for (const std::size_t b : bugs) out.push_back(catalogue()[b].id);
    return out;
  }

  void progress() const {
    if (options_.progress)
      options_.progress(
          std::min(1.0, static_cast<double>(out_.runs) / static_cast<double>(catalogue().size())));
  }

  const golden::TraceFile& trace_;
  const Checkpoint& checkpoint_;
  conformance::Backend& reference_;
  const DiagnoseOptions& options_;
  conformance::TraceTable table_;
  std::chrono::steady_clock::time_point begin_;
  Numerics numerics_;
  Diagnosis out_;
  std::map<Place, const Result*> allowed_;
  Reading right_;
};

}  // namespace

Diagnosis diagnose(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                   conformance::Backend& reference, const DiagnoseOptions& options) {
  return Search(trace, checkpoint, reference, options).run();
}

}  // namespace dsv4::bugs
