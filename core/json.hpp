// SPDX-License-Identifier: Apache-2.0
// Strict JSON for untrusted files: nlohmann/json, but a key that occurs twice in one object is an
// error (a plain parser keeps one of the two values, silently).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace dsv4 {

// Throws std::runtime_error or nlohmann's parse_error; callers add the file's name.
nlohmann::json parse_json(std::string_view text);

// A whole file as text. Throws IoError.
std::string read_text_file(const std::filesystem::path& file);

}  // namespace dsv4
