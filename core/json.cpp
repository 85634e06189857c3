// SPDX-License-Identifier: Apache-2.0
#include "core/json.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace dsv4 {

nlohmann::json parse_json(std::string_view text) {
  using nlohmann::json;
  constexpr int kDeepest = 64;  // a hostile file must not exhaust the stack when it is destroyed
  std::vector<std::set<std::string>> open_objects;
  const auto watch = [&open_objects](int depth, json::parse_event_t event, json& value) {
    if (depth > kDeepest) throw std::runtime_error("nested too deeply");
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key &&
        !open_objects.back().insert(value.get<std::string>()).second) {
      throw std::runtime_error(fmt::format("the key {} occurs twice", value.dump()));
    }
    return true;
  };
  return json::parse(text.begin(), text.end(), watch);
}

std::string read_text_file(const std::filesystem::path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    throw IoError(fmt::format("{}: expected a file, found a directory", file.string()));
  }
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.is_open() || in.bad()) {
    throw IoError(fmt::format("{}: cannot be read: {}", file.string(), std::strerror(errno)));
  }
  return text;
}

}  // namespace dsv4
