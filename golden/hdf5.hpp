// SPDX-License-Identifier: Apache-2.0
// The little of HDF5 that trace and case files need, as objects that close themselves and throw.
// Not a general HDF5 binding: hdf5.cpp is the only file that includes the library's headers, and no
// type of it appears here.
//
// Files are untrusted input: links other than hard ones, values kept in other files, and sizes that
// the stored bytes cannot possibly fill are refused. Reading throws TraceError, writing IoError.
// The HDF5 library is not thread-safe: use all of this from one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dsv4::golden::hdf5 {

// Owns one library identifier.
class Handle {
 public:
  using Close = int (*)(std::int64_t);
  Handle() = default;
  Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
    return *this;
  }
  ~Handle() { reset(); }
  std::int64_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // Closes; negative: the library could not.
  int reset() {
    const std::int64_t id = std::exchange(id_, -1);
    return id >= 0 ? close_(id) : 0;
  }

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

enum class Kind { group, dataset, link, other };  // link: soft, external or user-defined
enum class Numbers { floating, integer, none };   // none: text, compound, enum, …

struct Child {
  std::string name;
  Kind kind = Kind::other;
  std::uint64_t address = 0;  // equal addresses are the same object
};

// What a group and a dataset have in common: a place, and attributes.
class Object {
 public:
  const std::string& where() const { return where_; }  // "file.h5: /calls/0000", for messages

  // nullopt: absent. A TraceError when it is something else. An array of texts is joined with
  // commas, a scalar is an array of one number.
  std::optional<std::string> text(const char* attribute) const;
  std::optional<std::vector<std::int64_t>> integers(const char* attribute) const;
  std::optional<std::int64_t> integer(const char* attribute) const;

  void set_text(const char* attribute, std::string_view value);
  void set_integer(const char* attribute, std::int64_t value);
  void set_integers(const char* attribute, std::span<const std::int32_t> values);

 protected:
  Object(Handle id, std::string where) : id_(std::move(id)), where_(std::move(where)) {}
  void set(const char* attribute, std::int64_t type, const Handle& space, const void* values);
  Handle id_;
  std::string where_;
};

class Dataset : public Object {
 public:
  Numbers numbers() const { return numbers_; }
  int bits() const { return bits_; }  // of the stored type
  const std::vector<std::int64_t>& shape() const { return shape_; }

  // The whole dataset, row-major, whatever the stored width and byte order.
  std::vector<double> read_doubles() const;
  std::vector<std::int64_t> read_integers() const;  // only if numbers() is integer

  // Axis names, for viewers.
  void set_labels(std::span<const std::string> labels);

 private:
  friend class Group;
  Dataset(Handle id, std::string where);
  void check_storage() const;
  template <class T>
  std::vector<T> read_as(std::int64_t memory_type) const;

  Numbers numbers_ = Numbers::none;
  int bits_ = 0;
  std::vector<std::int64_t> shape_;
  std::size_t count_ = 0;
};

// Stored as float64, float32, int32, little endian.
using Values = std::variant<std::span<const double>, std::span<const float>,
                            std::span<const std::int32_t>, std::span<const std::uint8_t>>;

class Group : public Object {
 public:
  std::vector<Child> children() const;  // in creation order where the file tracks it, else by name
  std::optional<Child> child(const std::string& name) const;
  Group group(const std::string& name) const;
  Dataset dataset(const std::string& name) const;

  Group create_group(const std::string& name);
  // shape [] is a scalar; an extent may be 0. Compressed, with a checksum.
  Dataset create(const std::string& name, std::span<const std::int64_t> shape, Values values);

 private:
  friend class File;
  Group(Handle id, std::string where) : Object(std::move(id), std::move(where)) {}
  std::string path_of(const std::string& name) const {
    return where_.ends_with('/') ? where_ + name : where_ + '/' + name;
  }
  Child describe(const std::string& name) const;
};

class File {
 public:
  static File open(const std::filesystem::path& path);  // for reading
  // Replaces what is there. Messages name `shown`, the file that the user asked for.
  static File create(const std::filesystem::path& path, const std::string& shown);
  Group root() const;
  void close();  // writes what is buffered; IoError if that fails

 private:
  File(Handle id, std::string name) : id_(std::move(id)), name_(std::move(name)) {}
  Handle id_;
  std::string name_;
};

}  // namespace dsv4::golden::hdf5
