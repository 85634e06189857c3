// SPDX-License-Identifier: Apache-2.0
// A file that appears whole or not at all: written under a temporary name beside the target,
// synced, then renamed. Dropped without commit(), it leaves nothing behind.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace dsv4 {

class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& target);  // throws IoError
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  [[noreturn]] void fail(std::string_view doing) const;

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

void write_text_file(const std::filesystem::path& target, std::string_view text);

}  // namespace dsv4
