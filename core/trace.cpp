// SPDX-License-Identifier: Apache-2.0
#include "core/trace.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <stdexcept>

#include "core/quantize.hpp"

namespace dsv4 {
namespace {

std::string_view leaf_of(std::string_view spec) { return spec.substr(0, spec.find('[')); }

std::string_view axes_of(std::string_view spec) {
  const auto open = spec.find('[');
  return spec.substr(open + 1, spec.find(']') - open - 1);
}

}  // namespace

Tap Tap::in(std::string_view scope) const {
  if (!sink_) return {};
  Tap child = *this;
  child.path_ = full_name(scope);
  return child;
}

Tap Tap::in(std::string_view scope, std::int64_t index) const {
  return sink_ ? in(fmt::format("{}.{}", scope, index)) : Tap{};
}

Tap& Tap::bind(std::string_view axis, std::int64_t extent) {
  if (sink_) extents_.insert_or_assign(std::string(axis), extent);
  return *this;
}

std::string Tap::full_name(std::string_view leaf) const {
  return path_.empty() ? std::string(leaf) : fmt::format("{}.{}", path_, leaf);
}

std::vector<std::int64_t> Tap::shape_of(std::string_view spec, std::int64_t count) const {
  std::vector<std::int64_t> shape;
  std::int64_t product = 1;
  std::string_view rest = axes_of(spec);
  while (!rest.empty()) {
    const std::string_view axis = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), axis.size() + 1));
    const auto it = extents_.find(axis);
    if (it == extents_.end())
      throw std::logic_error(fmt::format("{}.{}: unbound axis {}", path_, spec, axis));
    shape.push_back(it->second);
    product *= it->second;
  }
  if (product != count) {
    throw std::logic_error(
        fmt::format("{}.{}: declared {} values, got {}", path_, spec, product, count));
  }
  return shape;
}

void Tap::report(std::string_view spec, Stored& stored, const ErrorScale& error) const {
  Mat& value = stored.value;
  const auto shape = shape_of(spec, value.size());
  const std::string name = full_name(leaf_of(spec));
  TapEvent event{name,
                 axes_of(spec),
                 shape,
                 {value.data(), static_cast<std::size_t>(value.size())},
                 error,
                 position_,
                 stored.grid,
                 {stored.before.data(), static_cast<std::size_t>(stored.before.size())},
                 stored.composite};
  sink_->on_value(event);
  if (stored.before.size() > 0 && block_format(stored.grid) != nullptr)
    report_quantised(event, stored.columns);
}

void Tap::report_quantised(const TapEvent& event, std::int64_t columns) const {
  const std::string name(event.name);
  const auto wants = [&](const char* leaf) { return sink_->wants(name + leaf); };
  if (!wants(".code") && !wants(".scale") && !wants(".margin") && !wants(".scale.margin")) return;
  const BlockFormat& format = *block_format(event.grid);
  const Index rows = event.shape[0];
  const Index width = std::ssize(event.before) / std::max<Index>(1, rows);
  const Index blocks = (columns + format.block - 1) / format.block;
  // Columns that are not quantised have code 0 and nothing to decide.
  Mat code = Mat::Zero(rows, width), scale(rows, blocks), scale_margin(rows, blocks);
  Mat margin = Mat::Constant(rows, width, std::numeric_limits<Real>::infinity());
  std::vector<float> row(static_cast<std::size_t>(columns));
  std::vector<std::uint8_t> codes(row.size()), scales(static_cast<std::size_t>(blocks));
  std::vector<double> margins(row.size()), scale_margins(scales.size());
  for (Index i = 0; i < rows; ++i) {
    const auto values = event.before.subspan(static_cast<std::size_t>(i * width), row.size());
    std::transform(values.begin(), values.end(), row.begin(),
                   [](Real x) { return static_cast<float>(x); });
    quantization_margins(format, row.data(), columns, margins.data(), scale_margins.data());
    quantize_dequantize(format, row.data(), columns, codes.data(), scales.data());
    std::copy(codes.begin(), codes.end(), code.row(i).begin());
    std::copy(scales.begin(), scales.end(), scale.row(i).begin());
    std::copy(margins.begin(), margins.end(), margin.row(i).begin());
    std::copy(scale_margins.begin(), scale_margins.end(), scale_margin.row(i).begin());
  }
  const std::string block_axes =
      std::string(event.axes.substr(0, event.axes.find(','))) + ",blocks";
  const std::int64_t block_shape[] = {rows, blocks};
  // A margin is the difference of two numbers near the value or near its block's largest.
  const Real largest =
      Eigen::Map<const Eigen::VectorX<Real>>(event.before.data(), std::ssize(event.before))
          .template lpNorm<Eigen::Infinity>();
  const auto send = [&](const char* leaf, std::string_view axes,
                        std::span<const std::int64_t> shape, Mat& values, Real error) {
    if (!wants(leaf)) return;
    const std::string full = name + leaf;
    const auto bound = [&] { return Mat(Mat::Constant(values.rows(), values.cols(), error)); };
    TapEvent beside{full,
                    axes,
                    shape,
                    {values.data(), static_cast<std::size_t>(values.size())},
                    error > 0 ? ErrorScale(bound) : ErrorScale{}};
    sink_->on_value(beside);
  };
  send(".code", event.axes, event.shape, code, 0);
  send(".margin", event.axes, event.shape, margin, 4 * largest);
  send(".scale", block_axes, block_shape, scale, 0);
  send(".scale.margin", block_axes, block_shape, scale_margin, 4 * largest);
}

void Tap::report(std::string_view spec, IntMat& value, const Mat* scores,
                 std::string_view scores_leaf) const {
  const auto shape = shape_of(spec, value.size());
  const std::string name = full_name(leaf_of(spec));
  const std::string scores_name = full_name(scores_leaf);
  IndexEvent event{name,   axes_of(spec),
                   shape,  {value.data(), static_cast<std::size_t>(value.size())},
                   scores, scores_name};
  sink_->on_index(event);
}

}  // namespace dsv4
