// SPDX-License-Identifier: Apache-2.0
// The sink that writes a trace file: every tap, or those that match a glob.
#pragma once

#include <string>
#include <vector>

#include "core/config.hpp"
#include "core/taps.hpp"
#include "core/trace.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::cli {

class Recorder : public TapSink {
 public:
  // Globs empty: every tap that is not optional. An optional tap is written only if a glob matches
  // it.
  Recorder(golden::TraceWriter& writer, const ModelConfig& config, Rounding rounding,
           std::vector<std::string> globs, std::int64_t first_layer = 0);

  void on_call(std::int64_t start, std::int64_t end) override;
  void on_value(TapEvent& event) override;
  void on_index(IndexEvent& event) override;
  bool wants(std::string_view name) const override;

  std::int64_t written() const { return written_; }

 private:
  bool records(std::string_view name, const TapMatch& match) const;

  golden::TraceWriter& writer_;
  const ModelConfig& config_;
  Rounding rounding_;
  std::vector<std::string> globs_;
  std::int64_t first_layer_;
  std::int64_t written_ = 0;
};

}  // namespace dsv4::cli
