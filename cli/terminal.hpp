// SPDX-License-Identifier: Apache-2.0
// What goes to a person at a terminal: a progress line, colour, tables, and numbers with units.
// Nothing here is data: data goes to stdout without it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::cli {

enum class Color { automatic, always, never };
void set_color(Color color);  // from --color
// Whether stdout takes colour: a terminal, and neither NO_COLOR nor TERM=dumb says otherwise.
bool use_color();
std::string bold(std::string_view text);
std::string dim(std::string_view text);

std::string human_bytes(double bytes);      // "3.6 GB", powers of 1000
std::string human_count(double count);      // "284.3 G"
std::string human_seconds(double seconds);  // "350 ms", "12.3 s", "4 min 05 s"

// Columns as wide as their widest cell; a column whose cells all start with a digit, + or - is
// right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// One line on stderr that overwrites itself: done, rate, time left. Silent unless stderr is a
// terminal, and in the first second.
class Progress {
 public:
  Progress(std::string label, double total, std::string unit, bool quiet = false);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { finish(); }
  void update(double done);
  void finish();  // removes the line

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_, unit_;
  double total_;
  bool active_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace dsv4::cli
