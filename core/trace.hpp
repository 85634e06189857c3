// SPDX-License-Identifier: Apache-2.0
// Naming and recording of intermediate values.
//
// A value is wrapped where it is defined; the result is the value itself:
//
//     const Mat qr = tap("qr[s,q]", rms_norm(q_a, w.q_norm, eps), [&] { return rms_norm_error(q_a,
//     w.q_norm, eps); });
//
// A default-constructed Tap is silent and costs one null check. With a sink attached the value is
// reported under its full path ("layers.3.attn.qr"), its axis letters are checked against the sizes
// bound with `bind`, and the sink may replace it (activation patching, or feeding a trace's values
// so that errors do not accumulate). The optional last argument gives, only if the sink asks, the
// running error bound of the stage: per element an E with |computed - exact| <= u * E to first
// order, where u is the unit roundoff of whoever computed it. No error function means that the
// stage is exact.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/rounding.hpp"
#include "core/tensor.hpp"

namespace dsv4 {

using ErrorScale = std::function<Mat()>;

// One reported tensor. All pointers are valid during the call only.
struct TapEvent {
  std::string_view name;                // full path
  std::string_view axes;                // "s,h,c"
  std::span<const std::int64_t> shape;  // one extent per axis
  std::span<Real> values;               // row-major; a sink may overwrite them
  const ErrorScale& error;              // empty: the stage is exact
  std::int64_t position = -1;           // absolute position of a tensor without a row axis (logits)
  Format grid = Format::none;           // what the values were rounded to
  std::span<const Real> before = {};    // the values before that; empty: not rounded
  bool composite = false;               // roundings inside the stage, which `error` does not know
};

// A discrete choice: row i holds the chosen columns of scores.row(i), -1 = none.
struct IndexEvent {
  std::string_view name;
  std::string_view axes;
  std::span<const std::int64_t> shape;
  std::span<std::int32_t> values;
  const Mat* scores = nullptr;  // what was ranked, -inf = not a candidate; null: no choice was made
  std::string_view scores_name;  // the tap that `scores` comes from
};

class TapSink {
 public:
  virtual ~TapSink() = default;
  virtual void on_value(TapEvent& event) = 0;
  virtual void on_index(IndexEvent& event) = 0;
  // A forward call over positions [start, end) begins.
  virtual void on_call(std::int64_t start, std::int64_t end) = 0;
  // Optional and costly taps (states, scores of a whole call, every position's logits) are computed
  // only for a sink that wants them.
  virtual bool wants(std::string_view name) const = 0;
};

class Tap {
 public:
  Tap() = default;
  explicit Tap(TapSink& sink, std::string path = {}) : sink_(&sink), path_(std::move(path)) {}

  explicit operator bool() const { return sink_ != nullptr; }
  TapSink* sink() const { return sink_; }  // for a sink that stands between; null: silent

  // Child scope: tap.in("attn").in("compressor").
  Tap in(std::string_view scope) const;
  Tap in(std::string_view scope, std::int64_t index) const;

  // For a tensor without a row axis: the absolute position it belongs to.
  Tap at(std::int64_t position) const {
    Tap placed = *this;
    placed.position_ = position;
    return placed;
  }

  // Declares what an axis letter means in this scope and below.
  Tap& bind(std::string_view axis, std::int64_t extent);

  void begin_call(std::int64_t start, std::int64_t end) const {
    if (sink_) sink_->on_call(start, end);
  }
  bool wants(std::string_view leaf) const { return sink_ && sink_->wants(full_name(leaf)); }

  // Identity on `value`; evaluates lazy Eigen expressions so that nothing dangles.
  template <class Derived>
  Mat operator()(std::string_view spec, const Eigen::MatrixBase<Derived>& value,
                 const ErrorScale& error = {}) const {
    return (*this)(spec, Mat(value.derived()), error);
  }
  Mat operator()(std::string_view spec, Mat&& value, const ErrorScale& error = {}) const {
    return (*this)(spec, Stored{std::move(value)}, error);
  }
  // A value that is rounded where it is stored.
  Mat operator()(std::string_view spec, Stored&& stored, const ErrorScale& error = {}) const {
    if (sink_) [[unlikely]]
      report(spec, stored, error);
    return std::move(stored.value);
  }
  IntMat operator()(std::string_view spec, IntMat&& value, const Mat* scores = nullptr,
                    std::string_view scores_leaf = {}) const {
    if (sink_) [[unlikely]]
      report(spec, value, scores, scores_leaf);
    return std::move(value);
  }

 private:
  std::string full_name(std::string_view leaf) const;
  void report(std::string_view spec, Stored& stored, const ErrorScale& error) const;
  // Codes, scales and margin of a value that was quantised, for a sink that wants them.
  void report_quantised(const TapEvent& event, std::int64_t columns) const;
  void report(std::string_view spec, IntMat& value, const Mat* scores,
              std::string_view scores_leaf) const;
  // "q[s,h,c]" -> the extents of its axes; throws std::logic_error when they do not multiply to
  // `count`.
  std::vector<std::int64_t> shape_of(std::string_view spec, std::int64_t count) const;

  TapSink* sink_ = nullptr;
  std::string path_;
  std::int64_t position_ = -1;
  std::map<std::string, std::int64_t, std::less<>> extents_;
};

}  // namespace dsv4
