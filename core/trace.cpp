// SPDX-License-Identifier: Apache-2.0
#include "core/trace.hpp"

#include <fmt/format.h>
#include <stdexcept>

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
