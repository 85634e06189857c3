// SPDX-License-Identifier: Apache-2.0
#include "core/file_writer.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <system_error>
#include <unistd.h>

#include "core/error.hpp"

namespace dsv4 {

FileWriter::FileWriter(const std::filesystem::path& target)
    : target_(target), temporary_(fmt::format("{}.{}.tmp", target.string(), ::getpid())) {
  // A rename would put a file in the place of a device, a pipe or a directory.
  std::error_code ignored;
  if (std::filesystem::exists(target, ignored) &&
      !std::filesystem::is_regular_file(target, ignored)) {
    throw IoError(target.string() + ": exists and is not a regular file");
  }
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot be created");
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void FileWriter::fail(std::string_view doing) const {
  const int code = errno;
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
  throw IoError(fmt::format("{}: {}: {}", target_.string(), doing, std::strerror(code)),
                full ? "free some space, or write elsewhere; no partial file was left" : "");
}

void FileWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot be written");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void FileWriter::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void FileWriter::commit() {
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail("cannot be written to disk");
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("cannot be renamed into place");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) fail("cannot be closed");
}

void write_text_file(const std::filesystem::path& target, std::string_view text) {
  FileWriter out(target);
  out.write(text);
  out.commit();
}

}  // namespace dsv4
