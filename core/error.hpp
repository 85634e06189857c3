// SPDX-License-Identifier: Apache-2.0
// Typed errors. What went wrong and where is `what()`; what to do about it is `hint()`.
// Libraries throw; only the command line prints and chooses an exit code.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace dsv4 {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, std::string hint = {})
      : std::runtime_error(what), hint_(std::move(hint)) {}
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

// clang-format off
class UsageError  : public Error { using Error::Error; };  // the caller asked for something impossible
class ConfigError : public Error { using Error::Error; };  // config.json: missing, contradictory, unsupported
class WeightError : public Error { using Error::Error; };  // safetensors and the tensors in them
class TraceError  : public Error { using Error::Error; };  // HDF5 trace and case files
class IoError     : public Error { using Error::Error; };  // the operating system said no
// clang-format on

}  // namespace dsv4
