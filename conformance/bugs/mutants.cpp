// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/mutants.hpp"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>

#include "core/arithmetic.hpp"
#include "core/error.hpp"
#include "mutants/core/arithmetic.hpp"
#include "mutants/reference/model.hpp"
#include "mutants/switches.hpp"

namespace dsv4_mutants::reference {
std::int64_t&
run();  // hooks.toml: what a mistake keeps from prompt to prompt must not reach the next run
}

namespace dsv4::bugs {
namespace {

// Taps of the copy, handed on under the same names to a tap of the true kind.
class Bridge : public dsv4_mutants::TapSink {
 public:
  explicit Bridge(Tap to) : to_(std::move(to)) {}

  void on_call(std::int64_t start, std::int64_t end) override { to_.begin_call(start, end); }
  bool wants(std::string_view name) const override { return to_.wants(name); }

  void on_value(dsv4_mutants::TapEvent& event) override {
    const Tap tap = bound(event.axes, event.shape).at(event.position);
    Stored stored;
    stored.value = matrix(event.values);
    stored.grid = static_cast<Format>(event.grid);
    // Codes and scales of blocks are events of their own, and the copy has sent them.
    if (has_grid(stored.grid)) stored.before = matrix(event.before);
    stored.composite = event.composite;
    const Mat kept = tap(spec(event.name, event.axes), std::move(stored), event.error);
    std::copy_n(kept.data(), kept.size(), event.values.begin());
  }

  void on_index(dsv4_mutants::IndexEvent& event) override {
    const std::string_view path = event.name.substr(0, event.name.rfind('.'));
    const Tap tap = bound(event.axes, event.shape).in(path);
    const std::string_view leaf = event.name.substr(path.size() + 1);
    const std::string_view scores =
        event.scores ? event.scores_name.substr(path.size() + 1) : std::string_view{};
    IntMat values(1, std::ssize(event.values));
    std::copy(event.values.begin(), event.values.end(), values.data());
    const IntMat kept = tap(spec(leaf, event.axes), std::move(values), event.scores, scores);
    std::copy_n(kept.data(), kept.size(), event.values.begin());
  }

 private:
  template <class Value>
  static Mat matrix(std::span<Value> values) {
    Mat m(values.empty() ? 0 : 1, std::ssize(values));
    std::copy(values.begin(), values.end(), m.data());
    return m;
  }

  static std::string spec(std::string_view name, std::string_view axes) {
    return fmt::format("{}[{}]", name, axes);
  }

  Tap bound(std::string_view axes, std::span<const std::int64_t> shape) const {
    Tap tap = to_;
    for (const std::int64_t extent : shape) {
      const std::string_view axis = axes.substr(0, axes.find(','));
      tap.bind(axis, extent);
      axes.remove_prefix(std::min(axes.size(), axis.size() + 1));
    }
    return tap;
  }

  Tap to_;
};

dsv4_mutants::Numerics numerics_of(const Numerics& n) {
  dsv4_mutants::Numerics out;
  out.rounding = static_cast<dsv4_mutants::Rounding>(n.rounding);
  if (n.arithmetic) {
    auto arithmetic = std::make_shared<dsv4_mutants::Arithmetic>();
    arithmetic->name = n.arithmetic->name;
    for (const auto& [site, format] : n.arithmetic->sites)
      arithmetic->sites.emplace_back(site, static_cast<dsv4_mutants::Format>(format));
    out.arithmetic = std::move(arithmetic);
  }
  return out;
}

std::bitset<dsv4_mutants::kMostBugs>& noted() {
  static std::bitset<dsv4_mutants::kMostBugs> bugs;
  return bugs;
}

class Mutant : public conformance::Backend {
 public:
  explicit Mutant(std::span<const std::size_t> thrown) : thrown_(thrown.begin(), thrown.end()) {
    for (const std::size_t bug : thrown_) {
      name_ += " " + catalogue().at(bug).id;
      reads_otherwise_ |= catalogue()[bug].kind == "loader";
    }
  }

  std::string_view name() const override { return name_; }
  conformance::Support supports(const conformance::Case&) const override { return {}; }

  void run(const conformance::Case& request, Tap tap) override {
    throw_switches();
    load(request);
    Bridge bridge(std::move(tap));
    auto cache = model_->new_cache();
    for (const conformance::Call& call : request.calls) {
      dsv4_mutants::reference::ForwardOptions options;
      options.mtp = request.mtp;
      options.first_layer = request.first_layer;
      options.last_layer = request.last_layer;
      options.logits_at = call.logits_at;
      options.perturbation = {request.numerics.perturbation.seed,
                              request.numerics.perturbation.unit};
      if (request.streams) options.streams = request.streams(call);
      model_->forward(request.ids, call.end, cache, dsv4_mutants::Tap(bridge), options);
    }
  }

 private:
  void throw_switches() const {
    dsv4_mutants::switches().reset();
    for (const std::size_t bug : thrown_) dsv4_mutants::switches().set(bug);
    dsv4_mutants::codec_thrown() = reads_otherwise_;
    ++dsv4_mutants::reference::run();
  }

  using Opened = std::shared_ptr<const dsv4_mutants::Checkpoint>;

  static Opened opened(const std::filesystem::path& path) {
    return std::make_shared<dsv4_mutants::Checkpoint>(dsv4_mutants::Checkpoint::open(path));
  }

  // Hundreds of mutants in a row read the same checkpoint in the same way.
  static Opened shared(const std::filesystem::path& path) {
    static std::pair<std::filesystem::path, Opened> last;
    if (last.first != path) last = {path, opened(path)};
    return last.second;
  }

  // The members of an ensemble run the same case many times.
  void load(const conformance::Case& request) {
    if (model_ && loaded_ == request.checkpoint && last_layer_ == request.last_layer &&
        rounding_ == request.numerics.rounding && arithmetic_ == request.numerics.arithmetic)
      return;
    model_.reset();
    checkpoint_ =
        reads_otherwise_ ? opened(request.checkpoint->path()) : shared(request.checkpoint->path());
    model_ = std::make_unique<dsv4_mutants::reference::Model>(*checkpoint_, request.last_layer,
                                                              numerics_of(request.numerics));
    loaded_ = request.checkpoint;
    last_layer_ = request.last_layer;
    rounding_ = request.numerics.rounding;
    arithmetic_ = request.numerics.arithmetic;
  }

  std::vector<std::size_t> thrown_;
  std::string name_ = "reference with";
  bool reads_otherwise_ = false;
  std::shared_ptr<const dsv4_mutants::Checkpoint> checkpoint_;
  std::unique_ptr<dsv4_mutants::reference::Model> model_;
  const Checkpoint* loaded_ = nullptr;
  std::int64_t last_layer_ = -1;
  Rounding rounding_ = Rounding::exact;
  std::shared_ptr<const Arithmetic> arithmetic_;
};

}  // namespace

std::size_t number_of(const std::string& id) {
  const auto& bugs = catalogue();
  const auto it =
      std::find_if(bugs.begin(), bugs.end(), [&](const Bug& bug) { return bug.id == id; });
  if (it == bugs.end()) {
    throw UsageError(fmt::format("{}: the catalogue has no such bug", id),
                     "docs/bugs.md lists them");
  }
  return static_cast<std::size_t>(it - bugs.begin());
}

std::unique_ptr<conformance::Backend> mutant(std::span<const std::size_t> thrown) {
  return std::make_unique<Mutant>(thrown);
}

TorchTies::TorchTies() { dsv4_mutants::torch_ties() = true; }
TorchTies::~TorchTies() { dsv4_mutants::torch_ties() = false; }

Passed::Passed() {
  noted().reset();
  dsv4_mutants::passed() = &noted();
}

Passed::~Passed() { dsv4_mutants::passed() = nullptr; }

std::vector<std::size_t> Passed::take() {
  std::vector<std::size_t> out;
  for (std::size_t bug = 0; bug < catalogue().size(); ++bug)
    if (noted()[bug]) out.push_back(bug);
  noted().reset();
  return out;
}

}  // namespace dsv4::bugs
