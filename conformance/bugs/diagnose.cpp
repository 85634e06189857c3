// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/diagnose.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fmt/format.h>
#include <omp.h>
#include <utility>

#include "conformance/bugs/forked.hpp"
#include "conformance/bugs/judge.hpp"
#include "conformance/bugs/notes.hpp"
#include "conformance/bugs/reading.hpp"
#include "conformance/bugs/suspects.hpp"
#include "core/taps.hpp"

namespace dsv4::bugs {
namespace {

using conformance::Result;

// Fixed before any planted trace was judged (tests/cli/test_diagnose_unknown.py).
constexpr double kExplained = 0.9;  // of the first difference's squares, to be named
constexpr double kSettled = 1e-6;   // of them left: no other mistake can do better and differ
constexpr double kPartly = 0.5;     // of the whole trace, where right stages become wrong
constexpr double kNearest = 0.05;   // less is not near
constexpr std::size_t kFullReadings = 24;
constexpr std::size_t kPairs = 24;
constexpr std::size_t kStacked = 3;
constexpr std::size_t kBranches = 3;  // that explain a difference alike and leave others
constexpr int kMostWorkers = 16;

struct Suspect {
  Thrown bugs;
  Reading reading;
  double left = 1;  // share of the first difference's squares that remains
};

class Search {
 public:
  Search(const golden::TraceFile& trace, const Checkpoint& checkpoint,
         conformance::Backend& reference, const DiagnoseOptions& options)
      : trace_(trace), checkpoint_(checkpoint), reference_(reference), options_(options) {
    const std::chrono::duration<double> allowed(std::min(options.seconds, 1e9));
    limits_.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(allowed);
  }

  Diagnosis run() {
    conformance::VerifyOptions v;
    v.arithmetic = options_.arithmetic;
    out_.report = conformance::verify(trace_, checkpoint_, reference_, v);
    Numerics numerics;
    numerics.rounding = parse_rounding(out_.report.rounding, out_.report.trace);
    numerics.arithmetic = options_.arithmetic;
    reader_.emplace(trace_, checkpoint_, numerics);
    if (auto note = missing_draft(reader_->table(), checkpoint_.config()))
      out_.notes.push_back(std::move(*note));
    const Result* first = out_.report.first_difference();
    if (first == nullptr) return std::move(out_);
    first_ = first->tap;
    // Of a file that all processes share only one may read at a time.
    limits_.workers = reader_->in_memory() ? std::min(kMostWorkers, omp_get_max_threads()) : 1;
    ++out_.runs;
    right_ = reader_->read(reference_, {});
    judge_.emplace(out_.report, right_);
    search(*first, {}, {});
    if (!out_.explains_all()) search_with_torch_ties(*first);
    return std::move(out_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  // A trace that does not show its choices differs behind each tie that was broken otherwise. The
  // report allows for that; a mistake must be run with the same choices. Tried where it matters.
  void search_with_torch_ties(const Result& first) {
    const TorchTies ties;
    ++out_.runs;
    const Reading right = reader_->read(*mutant({}), {});
    if (right.crashed || Judge::same(right_, right)) return;
    if (Clock::now() >= limits_.deadline) return leave_untried(first, {});
    std::vector<Explanation> named = std::exchange(out_.candidates, {});
    std::optional<Explanation> nearest = std::exchange(out_.nearest, {});
    right_ = right;
    judge_.emplace(out_.report, right_);
    search(first, {}, {});
    if (out_.explains_all() || (named.empty() && !out_.candidates.empty())) {
      out_.notes.emplace_back("equal scores were chosen from as PyTorch does");
    } else {
      out_.candidates = std::move(named);
      out_.nearest = std::move(nearest);
    }
  }

  // ---- running --------------------------------------------------------------------------------

  // As much of the run as the difference needs.
  Extent extent_of(const Result& at) {
    Extent e;
    e.only = at.tap;
    const auto layers = checkpoint_.config().n_layers;
    const std::int64_t target = at.tap == "embed"               ? 0
                                : at.tap.starts_with("layers.") ? at.block
                                                                : layers;
    if (target < layers - 1) e.last_layer = target;
    const auto plan = conformance::plan_calls(reader_->table(), {});
    const auto& call = reader_->table().calls()[static_cast<std::size_t>(at.call)];
    for (const auto& c : plan) {
      ++e.calls;
      if (c.end >= call.end) break;
    }
    e.first_layer = reader_->first_needed(target, e.calls);
    return e;
  }

  // What was known of a difference before its suspects are tried.
  struct Scene {
    Result at;
    Thrown with;  // found already
    Extent extent;
    History history;
    Reading before;
    double squares = 0;
  };

  Scene scene_of(const Result& at, const Thrown& with) {
    Scene s{at, with, extent_of(at), {}, {}, 0};
    ++out_.runs;
    s.before = reader_->read(*mutant(with), s.extent, s.history);
    s.squares = std::max(Judge::squares_at(at.tap, s.before), 1e-300);
    return s;
  }

  // Runs all of them, in processes of their own. A suspect for which there was no time is left out.
  template <class Extents>
  std::vector<Suspect> readings(std::vector<Thrown> all, const Extents& extent_of) {
    const auto answer = [&](std::size_t i) {
      Reading r = reader_->read(*mutant(all[i]), extent_of(all[i]));
      const auto left = judge_->first_left(r);
      r.spoils = judge_->spoils(r);
      r.results.clear();
      if (left) r.results.push_back(*left);
      return packed(r);
    };
    due_ += static_cast<double>(all.size());
    const auto tick = [&] {
      if (options_.progress) options_.progress(std::min(1.0, ++done_ / due_));
    };
    const std::vector<Job> jobs = run_forked(all.size(), limits_, answer, tick);
    std::vector<Suspect> out;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (jobs[i].end == Job::End::untried) {
        ++out_.untried;
        continue;
      }
      ++out_.runs;
      Suspect s{std::move(all[i]), {}, 1};
      if (jobs[i].end == Job::End::answered) s.reading = unpacked(jobs[i].answer);
      s.reading.crashed |= jobs[i].end == Job::End::died;
      out.push_back(std::move(s));
    }
    return out;
  }

  // At the tap of the difference alone, from where each bug first acts. A bug whose text is not
  // reached on the way there changes nothing there.
  std::vector<Suspect> screened(const Scene& scene, const std::vector<Thrown>& added) {
    std::vector<Thrown> all;
    for (const Thrown& bugs : added) {
      if (!scene.before.crashed && !start(scene, bugs)) continue;
      all.push_back(scene.with);
      all.back().insert(all.back().end(), bugs.begin(), bugs.end());
    }
    auto out = readings(std::move(all), [&](const Thrown& bugs) {
      Extent e = scene.extent;
      if (scene.before.crashed) return e;
      const auto own = bugs.begin() + std::ssize(scene.with);
      const std::int64_t layer = *start(scene, {own, bugs.end()});
      if (layer == e.first_layer || scene.history.entering.empty()) return e;
      e.first_layer = layer;
      e.history = &scene.history;
      return e;
    });
    for (Suspect& s : out)
      if (!s.reading.crashed)
        s.left = Judge::squares_left(scene.at.tap, scene.before, s.reading) / scene.squares;
    return out;
  }

  static std::optional<std::int64_t> start(const Scene& scene, const Thrown& added) {
    return first_layer(added, scene.history, scene.extent.first_layer);
  }

  // Does it explain the first difference, and shows nothing before it?
  bool passes(const Suspect& s, const Result& at) const {
    if (s.reading.crashed || s.left > 1 - kExplained) return false;
    const auto first = judge_->first_left(s.reading);
    return !first || Judge::before(at, *first);
  }

  // ---- the search -----------------------------------------------------------------------------

  void search(const Result& at, const Thrown& with, const std::vector<Part>& parts) {
    const Scene scene = scene_of(at, with);
    std::vector<Suspect> all;
    for (const Tier& tier : tiers_of(at, with, checkpoint_.config(), reader_->table())) {
      if (try_tier(scene, tier, parts, all)) return;
      if (!with.empty()) return;  // a further mistake is looked for where it shows, not everywhere
    }
    if (settle(scene, parts, pairs(scene, all))) return;
    name_nearest(scene, all);
  }

  void search_further(const Result& at, const Thrown& with, const std::vector<Part>& parts) {
    if (Clock::now() < limits_.deadline) return search(at, with, parts);
    leave_untried(at, with);
  }

  void leave_untried(const Result& at, const Thrown& with) {
    const auto tiers = tiers_of(at, with, checkpoint_.config(), reader_->table());
    out_.untried += std::ssize(tiers[0].reported) + std::ssize(tiers[0].systematic);
  }

  // What a reported mistake explains, systematic ones of its own module may give as well; those of
  // others are tried where it leaves something.
  bool try_tier(const Scene& scene, const Tier& tier, const std::vector<Part>& parts,
                std::vector<Suspect>& rest) {
    std::vector<Suspect> good = try_singles(scene, tier.reported, rest);
    Thrown now = tier.systematic, later;
    const bool settled =
        std::any_of(good.begin(), good.end(), [](const Suspect& s) { return s.left <= kSettled; });
    if (settled) {
      const auto far = std::stable_partition(now.begin(), now.end(),
                                             [&](std::size_t bug) { return near(good, bug); });
      later.assign(far, now.end());
      now.erase(far, now.end());
    }
    for (const Thrown& systematic : {now, later}) {
      for (Suspect& s : try_singles(scene, systematic, rest)) good.push_back(std::move(s));
      if (settle(scene, parts, std::move(good))) return true;
      good.clear();
    }
    return false;
  }

  static bool near(const std::vector<Suspect>& good, std::size_t bug) {
    return std::any_of(good.begin(), good.end(), [&](const Suspect& s) {
      return same_module(catalogue()[s.bugs.back()].tap, catalogue()[bug].tap);
    });
  }

  // Those that pass; the others go to `rest`.
  std::vector<Suspect> try_singles(const Scene& scene, const Thrown& bugs,
                                   std::vector<Suspect>& rest) {
    std::vector<Thrown> added;
    for (const std::size_t bug : bugs) added.push_back({bug});
    std::vector<Suspect> good;
    for (Suspect& s : screened(scene, added))
      (passes(s, scene.at) ? good : rest).push_back(std::move(s));
    return good;
  }

  std::vector<Suspect> pairs(const Scene& scene, const std::vector<Suspect>& singles) {
    std::vector<Single> usable;
    for (const Suspect& s : singles) {
      const bool moves =
          std::abs(s.left - 1) > 1e-9 && s.reading.kept.size() == scene.before.kept.size();
      if (moves && !s.reading.crashed) usable.push_back({s.bugs.back(), &s.reading.kept});
    }
    std::vector<Thrown> both;
    for (const auto& [a, b] : likely_pairs(scene.before.kept, usable, kPairs))
      both.push_back({usable[a].bug, usable[b].bug});
    std::vector<Suspect> good = screened(scene, both);
    std::erase_if(good, [&](const Suspect& s) { return !passes(s, scene.at); });
    return good;
  }

  void name_nearest(const Scene& scene, const std::vector<Suspect>& all) {
    const auto best = std::min_element(
        all.begin(), all.end(), [](const auto& a, const auto& b) { return a.left < b.left; });
    if (best == all.end() || best->reading.crashed) return;
    const auto whole = readings({best->bugs}, [](const Thrown&) { return Extent{}; });
    // Without the time for a run of everything only the first difference is known.
    const Part part{scene.at.tap, ids({*best}, best->bugs.size() - 1)};
    Explanation e{{part}, std::nan(""), std::max(0.0, 1 - best->left), scene.at.tap};
    if (!whole.empty()) e.explained = judge_->explained(whole.front().reading);
    if (std::max(e.explained_at_first, e.explained) >= kNearest) out_.nearest = std::move(e);
  }

  // Screened at one tap; now everything is judged, and nothing may differ before that tap.
  std::vector<Suspect> read_whole(const Scene& scene, std::vector<Suspect> good) {
    std::stable_sort(good.begin(), good.end(),
                     [](const Suspect& a, const Suspect& b) { return a.left < b.left; });
    if (good.size() > kFullReadings) good.resize(kFullReadings);
    std::vector<Thrown> all;
    for (const Suspect& s : good) all.push_back(s.bugs);
    std::vector<Suspect> whole = readings(all, [](const Thrown&) { return Extent{}; });
    for (Suspect& s : whole) {
      s.left = std::find_if(good.begin(), good.end(), [&](const Suspect& g) {
                 return g.bugs == s.bugs;
               })->left;
    }
    std::erase_if(whole, [&](const Suspect& s) {
      const bool refuted = s.reading.spoils && judge_->explained(s.reading) < kPartly;
      return refuted || !passes(s, scene.at);
    });
    return whole;
  }

  // Those that explain the first difference, on the whole trace: equal ones become one candidate.
  // Where all leave a later difference, the best with which a further mistake explains it.
  bool settle(const Scene& scene, const std::vector<Part>& parts, std::vector<Suspect> screened) {
    const auto groups = grouped(read_whole(scene, std::move(screened)));
    if (groups.empty()) return false;
    const bool whole = !judge_->first_left(groups.front().front().reading);
    std::vector<Explanation> best;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const Suspect& s = groups[i].front();
      if (whole && judge_->first_left(s.reading)) break;  // another explains everything
      if (!whole && i > 0 && (i == kBranches || s.left > kSettled)) break;
      explain(scene, parts, groups[i]);
      if (whole) continue;
      if (out_.explains_all()) return true;
      if (best.empty()) best = out_.candidates;
      out_.candidates.clear();
    }
    if (!whole) out_.candidates = std::move(best);
    return true;
  }

  // A group becomes a candidate, with the mistake that explains what it leaves.
  void explain(const Scene& scene, const std::vector<Part>& parts,
               const std::vector<Suspect>& group) {
    const Suspect& s = group.front();
    const auto left = judge_->first_left(s.reading);
    Explanation e{parts, judge_->explained(s.reading), judge_->explained_at(first_, s.reading),
                  left ? left->tap : std::string{}};
    for (Part& p : parts_of(scene, group)) e.parts.push_back(std::move(p));
    const std::size_t named = out_.candidates.size();
    if (left && e.parts.size() < kStacked && Judge::before(scene.at, *left))
      search_further(*left, s.bugs, e.parts);
    if (out_.candidates.size() == named) out_.candidates.push_back(std::move(e));
  }

  std::vector<std::vector<Suspect>> grouped(std::vector<Suspect> good) const {
    std::vector<std::vector<Suspect>> groups;
    for (Suspect& s : good) {
      const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& g) {
        return judge_->equal(g.front().reading, s.reading);
      });
      (same == groups.end() ? groups.emplace_back() : *same).push_back(std::move(s));
    }
    const auto rank = [&](const Suspect& s) {
      return std::pair(!judge_->first_left(s.reading), judge_->explained(s.reading));
    };
    std::stable_sort(groups.begin(), groups.end(), [&](const auto& a, const auto& b) {
      return rank(a.front()) > rank(b.front());
    });
    return groups;
  }

  // A pair that was found at one difference has two parts.
  static std::vector<Part> parts_of(const Scene& scene, const std::vector<Suspect>& group) {
    const Thrown& bugs = group.front().bugs;
    const bool pair = bugs.size() - scene.with.size() > 1;
    std::vector<Part> out;
    for (std::size_t k = scene.with.size(); k < bugs.size(); ++k)
      out.push_back({pair ? catalogue()[bugs[k]].tap : scene.at.tap, ids(group, k)});
    return out;
  }

  // Of the k-th bug of each.
  static std::vector<std::string> ids(const std::vector<Suspect>& group, std::size_t k) {
    Thrown bugs;
    for (const Suspect& s : group) bugs.push_back(s.bugs[k]);
    return ids_of(std::move(bugs));
  }

  const golden::TraceFile& trace_;
  const Checkpoint& checkpoint_;
  conformance::Backend& reference_;
  const DiagnoseOptions& options_;
  ForkLimits limits_;
  std::optional<Reader> reader_;
  Diagnosis out_;
  std::string first_;  // tap of the trace's first difference
  Reading right_;
  std::optional<Judge> judge_;
  double done_ = 0, due_ = 0;
};

}  // namespace

Diagnosis diagnose(const golden::TraceFile& trace, const Checkpoint& checkpoint,
                   conformance::Backend& reference, const DiagnoseOptions& options) {
  return Search(trace, checkpoint, reference, options).run();
}

}  // namespace dsv4::bugs
