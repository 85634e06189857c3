// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <unistd.h>

namespace dsv4::cli {
namespace {

Color color_choice = Color::automatic;

std::string scaled(double value, std::string_view unit) {
  constexpr std::array<std::string_view, 6> kPrefixes{"", "k", "M", "G", "T", "P"};
  std::size_t i = 0;
  while (std::abs(value) >= 999.95 && i + 1 < kPrefixes.size()) {
    value /= 1000;
    ++i;
  }
  const std::string suffix = fmt::format("{}{}", kPrefixes[i], unit);
  return fmt::format("{:.{}f}{}{}", value, i == 0 ? 0 : 1, suffix.empty() ? "" : " ", suffix);
}

// Characters, not bytes, of UTF-8 text.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool numeric(std::string_view cell) {
  return cell.empty() || cell == "-" ||
         std::string_view("0123456789+-.").find(cell[0]) != std::string_view::npos;
}

}  // namespace

void set_color(Color color) { color_choice = color; }

bool use_color() {
  if (color_choice != Color::automatic) return color_choice == Color::always;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term && std::string_view(term) == "dumb";
  return ::isatty(STDOUT_FILENO) != 0 && !(no_color && *no_color) && !dumb;
}

std::string bold(std::string_view text) {
  return use_color() ? fmt::format("\x1b[1m{}\x1b[0m", text) : std::string(text);
}

std::string dim(std::string_view text) {
  return use_color() ? fmt::format("\x1b[2m{}\x1b[0m", text) : std::string(text);
}

std::string human_bytes(double bytes) { return scaled(bytes, "B"); }
std::string human_count(double count) { return scaled(count, ""); }

std::string human_seconds(double seconds) {
  if (seconds < 1) return fmt::format("{:.0f} ms", 1000 * seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(std::min(seconds, 1e15)));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string Table::text() const {
  const std::size_t columns = rows_.front().size();
  std::vector<std::size_t> widths(columns, 0);
  std::vector<bool> right(columns, rows_.size() > 1);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], width(rows_[r].at(c)));
      if (r > 0 && !numeric(rows_[r][c])) right[c] = false;
    }
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string padding(widths[c] - width(row[c]), ' ');
      line += fmt::format("{}{}{}", c > 0 ? "  " : "", right[c] ? padding : row[c],
                          right[c] ? row[c] : padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += (&row == &rows_.front() ? bold(line) : line) + '\n';
  }
  return out;
}

Progress::Progress(std::string label, double total, std::string unit, bool quiet)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      active_(!quiet && ::isatty(STDERR_FILENO) != 0) {}

void Progress::update(double done) {
  using Seconds = std::chrono::duration<double>;
  const auto now = Clock::now();
  const double elapsed = Seconds(now - start_).count();
  if (!active_ || elapsed < 1 || Seconds(now - last_).count() < 0.1) return;
  last_ = now;
  drawn_ = true;
  const double rate = done / elapsed;
  const std::string left =
      rate > 0 ? human_seconds(std::max(0.0, total_ - done) / rate) + " left" : "";
  const std::string amount = unit_ == "%"
                                 ? fmt::format("{:.0f} %", done)
                                 : fmt::format("{} of {} {}, {:.3g} {}/s", human_count(done),
                                               human_count(total_), unit_, rate, unit_);
  fmt::print(stderr, "\r\x1b[K{}: {}, {}", label_, amount, left);
  std::fflush(stderr);
}

void Progress::finish() {
  if (drawn_) {
    fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
  }
  drawn_ = active_ = false;
}

}  // namespace dsv4::cli
