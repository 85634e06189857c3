// SPDX-License-Identifier: Apache-2.0
// For clang-tidy before 16, whose clang cannot compile libstdc++'s <source_location>: the same by
// older builtins. Only scripts/lint.sh includes it.
#pragma once
#if defined(__clang__) && !__has_builtin(__builtin_source_location)
namespace std {

class source_location {
 public:
  static constexpr source_location current(const char* file = __builtin_FILE(),
                                           const char* function = __builtin_FUNCTION(),
                                           unsigned line = __builtin_LINE(),
                                           unsigned column = __builtin_COLUMN()) {
    source_location at;
    at.file_ = file;
    at.function_ = function;
    at.line_ = line;
    at.column_ = column;
    return at;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr const char* function_name() const { return function_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char* file_ = "";
  const char* function_ = "";
  unsigned line_ = 0, column_ = 0;
};

}  // namespace std
#endif
