// SPDX-License-Identifier: Apache-2.0
#include "cli/recorder.hpp"

#include <algorithm>

namespace dsv4::cli {
namespace {

bool is_empty(std::span<const std::int64_t> shape) {
  return std::any_of(shape.begin(), shape.end(), [](std::int64_t n) { return n == 0; });
}

golden::TraceWriter::Meta meta(const TapInfo& info, std::string_view axes, const char* dtype) {
  return {std::string(axes), dtype, info.site, info.eq, {}};
}

}  // namespace

Recorder::Recorder(golden::TraceWriter& writer, const ModelConfig& config, Rounding rounding,
                   std::vector<std::string> globs, std::int64_t first_layer)
    : writer_(writer),
      config_(config),
      rounding_(rounding),
      globs_(std::move(globs)),
      first_layer_(first_layer) {}

bool Recorder::records(std::string_view name, const TapMatch& match) const {
  if (match.block >= 0 && match.block < first_layer_) return false;
  if (match.block < 0 && first_layer_ > 0 && match.info->name == "embed") return false;
  if (globs_.empty()) return !match.info->optional;
  return std::any_of(globs_.begin(), globs_.end(),
                     [&](const auto& g) { return glob_match(g, name); });
}

bool Recorder::wants(std::string_view name) const {
  const auto m = find_tap(name, static_cast<int>(config_.n_layers));
  return m && records(name, *m);
}

void Recorder::on_call(std::int64_t start, std::int64_t end) {
  writer_.begin_call(start, end - start);
}

void Recorder::on_value(TapEvent& event) {
  const auto m = find_tap(event.name, static_cast<int>(config_.n_layers));
  // Entry taps without entries and scores without columns are left out.
  if (!m || !records(event.name, *m) || is_empty(event.shape)) return;
  if (m->info->dtype == "uint8") {  // the contents of bytes
    const std::vector<std::uint8_t> bytes(event.values.begin(), event.values.end());
    writer_.write(event.name, event.shape, std::span<const std::uint8_t>(bytes),
                  meta(*m->info, event.axes, "uint8"));
    ++written_;
    return;
  }
  const std::vector<double> values(event.values.begin(), event.values.end());
  // What the official code computes in float32 is float64 here.
  const bool bf16 = rounding_ == Rounding::official && m->info->dtype == "bf16";
  writer_.write(event.name, event.shape, values,
                meta(*m->info, event.axes, bf16 ? "bf16" : "fp64"));
  ++written_;
}

void Recorder::on_index(IndexEvent& event) {
  const auto m = find_tap(event.name, static_cast<int>(config_.n_layers));
  if (!m || !records(event.name, *m)) return;
  writer_.write(event.name, event.shape, std::span<const std::int32_t>(event.values),
                meta(*m->info, event.axes, "int"));
  ++written_;
}

}  // namespace dsv4::cli
