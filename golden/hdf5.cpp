// SPDX-License-Identifier: Apache-2.0
#include "golden/hdf5.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <hdf5.h>
#include <hdf5_hl.h>
#include <new>
#include <type_traits>

#include "core/error.hpp"

namespace dsv4::golden::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t> && std::is_same_v<herr_t, int>);

constexpr hsize_t kChunkBytes = hsize_t{1} << 20;  // the size of the library's chunk cache
// Smaller arrays live in their object header, whose checksum covers them: the tree of one chunk
// takes 2.6 kB.
constexpr std::size_t kCompactBytes = 2048;
constexpr hsize_t kMaxChunkBytes = hsize_t{1} << 30;
constexpr hsize_t kMaxAttributeValues = hsize_t{1} << 24;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 26;

// The innermost entry of the library's error stack says what went wrong; the outer ones only where
// it passed.
std::string innermost_message() {
  std::string text;
  const H5E_walk2_t take_first = [](unsigned n, const H5E_error2_t* entry, void* out) {
    if (n == 0 && entry->desc) *static_cast<std::string*>(out) = entry->desc;
    return herr_t{0};
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text);
  H5Eclear2(H5E_DEFAULT);
  // "file write failed: time = …, errno = 28, error message = 'No space left on device', buf = …"
  constexpr std::string_view kMark = "error message = '";
  if (const auto begin = text.find(kMark); begin != std::string::npos) {
    const auto from = begin + kMark.size();
    text = text.substr(from, text.find('\'', from) - from);
  }
  return text.empty() ? "the HDF5 library gives no reason" : text;
}

[[noreturn]] void read_failed(const std::string& where, std::string_view doing) {
  const std::string reason = innermost_message();
  const bool filter = reason.find("filter") != std::string::npos;
  throw TraceError(
      fmt::format("{}: {}: {}", where, doing, reason),
      filter ? "write it with gzip, or without compression" : "the file is damaged or incomplete");
}

[[noreturn]] void write_failed(const std::string& where, std::string_view doing) {
  const std::string reason = innermost_message();
  const bool full = reason.find("No space") != std::string::npos;
  throw IoError(fmt::format("{}: {}: {}", where, doing, reason),
                full ? "free some space, or write elsewhere" : "");
}

Handle reading(hid_t id, Handle::Close close, const std::string& where, std::string_view doing) {
  if (id < 0) read_failed(where, doing);
  return {id, close};
}

Handle writing(hid_t id, Handle::Close close, const std::string& where, std::string_view doing) {
  if (id < 0) write_failed(where, doing);
  return {id, close};
}

void wrote(herr_t status, const std::string& where, std::string_view doing) {
  if (status < 0) write_failed(where, doing);
}

// Errors are reported by exceptions, so the library must not print them; and after a failed write
// it must not try once more when the program ends.
void prepare_library() {
  static const bool once = [] {
    H5dont_atexit();
    H5open();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  static_cast<void>(once);
}

Handle property_list(hid_t type) { return {H5Pcreate(type), H5Pclose}; }

// Creation lists of files, groups and datasets: no times (files would differ from run to run),
// creation order kept, and small groups stored inside their header (a heap and two trees for nine
// names are 3 kB).
Handle creation_list(hid_t type) {
  Handle list = property_list(type);
  H5Pset_obj_track_times(list.get(), false);
  H5Pset_attr_creation_order(list.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  if (type != H5P_DATASET_CREATE) {
    H5Pset_link_creation_order(list.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    H5Pset_link_phase_change(list.get(), 64, 48);
  }
  return list;
}

Handle access_list(bool for_reading) {
  Handle list = property_list(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(list.get(), H5F_LIBVER_V18, H5F_LIBVER_V110);
  H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
  // A reader must work on read-only and network file systems, where locks fail.
  if (for_reading) H5Pset_file_locking(list.get(), false, true);
#else
  static_cast<void>(for_reading);
#endif
  return list;
}

Handle utf8_type() {
  Handle type{H5Tcopy(H5T_C_S1), H5Tclose};
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

// Extents as even as the budget allows, the last axes whole first: rows stay together.
std::vector<hsize_t> chunk_shape(const std::vector<hsize_t>& shape, hsize_t value_bytes) {
  std::vector<hsize_t> chunk(shape.size());
  hsize_t left = kChunkBytes / value_bytes;
  for (std::size_t i = shape.size(); i-- > 0;) {
    chunk[i] = std::clamp<hsize_t>(left, 1, shape[i]);
    left /= chunk[i];
  }
  return chunk;
}

struct OpenAttribute {
  Handle id, type, space;
  std::string where;
  hsize_t count = 0;
};

std::optional<OpenAttribute> open_attribute(hid_t object, const std::string& object_where,
                                            const char* name) {
  std::string where = fmt::format("{}: attribute '{}'", object_where, name);
  const htri_t exists = H5Aexists(object, name);
  if (exists < 0) read_failed(where, "cannot be looked up");
  if (exists == 0) return std::nullopt;
  OpenAttribute a;
  a.id = reading(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, where, "cannot be opened");
  a.type = reading(H5Aget_type(a.id.get()), H5Tclose, where, "has no readable type");
  a.space = reading(H5Aget_space(a.id.get()), H5Sclose, where, "has no readable shape");
  const hssize_t count = H5Sget_simple_extent_npoints(a.space.get());
  if (count < 0 || static_cast<hsize_t>(count) > kMaxAttributeValues ||
      H5Sget_simple_extent_ndims(a.space.get()) > 1) {
    throw TraceError(
        fmt::format("{}: expected a scalar or a short list, found {} values in {} dimensions",
                    where, count, H5Sget_simple_extent_ndims(a.space.get())));
  }
  a.count = static_cast<hsize_t>(count);
  a.where = std::move(where);
  return a;
}

std::vector<std::string> read_variable_texts(const OpenAttribute& a, hid_t memory_type) {
  std::vector<char*> pointers(a.count, nullptr);
  if (H5Aread(a.id.get(), memory_type, pointers.data()) < 0) read_failed(a.where, "cannot be read");
  std::vector<std::string> texts;
  for (const char* p : pointers) texts.emplace_back(p ? p : "");
  H5Dvlen_reclaim(memory_type, a.space.get(), H5P_DEFAULT, pointers.data());
  return texts;
}

std::vector<std::string> read_fixed_texts(const OpenAttribute& a, hid_t memory_type) {
  const std::size_t width = H5Tget_size(memory_type);
  if (width == 0 || width > kMaxTextBytes / std::max<hsize_t>(a.count, 1)) {
    throw TraceError(fmt::format("{}: a text of {} bytes is too long", a.where, width));
  }
  std::vector<char> bytes(a.count * width);
  if (H5Aread(a.id.get(), memory_type, bytes.data()) < 0) read_failed(a.where, "cannot be read");
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < a.count; ++i) {
    std::string text(bytes.data() + i * width, strnlen(bytes.data() + i * width, width));
    if (H5Tget_strpad(memory_type) == H5T_STR_SPACEPAD) text.erase(text.find_last_not_of(' ') + 1);
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

Handle::Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  reset();
  id_ = std::exchange(other.id_, -1);
  close_ = other.close_;
  return *this;
}

int Handle::reset() {
  const std::int64_t id = std::exchange(id_, -1);
  return id >= 0 ? close_(id) : 0;
}

std::optional<std::string> Object::text(const char* attribute) const {
  const auto a = open_attribute(id_.get(), where_, attribute);
  if (!a) return std::nullopt;
  if (H5Tget_class(a->type.get()) != H5T_STRING)
    throw TraceError(a->where + ": expected text, found another type");
  const Handle type = reading(H5Tget_native_type(a->type.get(), H5T_DIR_ASCEND), H5Tclose, a->where,
                              "has no readable type");
  const bool variable = H5Tis_variable_str(type.get()) > 0;
  const auto texts =
      variable ? read_variable_texts(*a, type.get()) : read_fixed_texts(*a, type.get());
  return fmt::format("{}", fmt::join(texts, ","));
}

std::optional<std::vector<std::int64_t>> Object::integers(const char* attribute) const {
  const auto a = open_attribute(id_.get(), where_, attribute);
  if (!a) return std::nullopt;
  if (H5Tget_class(a->type.get()) != H5T_INTEGER) {
    throw TraceError(a->where + ": expected integers, found another type");
  }
  std::vector<std::int64_t> values(a->count);
  if (a->count > 0 && H5Aread(a->id.get(), H5T_NATIVE_INT64, values.data()) < 0)
    read_failed(a->where, "cannot be read");
  return values;
}

std::optional<std::int64_t> Object::integer(const char* attribute) const {
  const auto values = integers(attribute);
  if (!values) return std::nullopt;
  if (values->size() != 1) {
    throw TraceError(fmt::format("{}: attribute '{}': expected one integer, found {}", where_,
                                 attribute, values->size()));
  }
  return values->front();
}

void Object::set_text(const char* attribute, std::string_view value) {
  const std::string copy(value);
  const char* pointer = copy.c_str();
  const Handle type = utf8_type();
  const Handle space{H5Screate(H5S_SCALAR), H5Sclose};
  const Handle a =
      writing(H5Acreate2(id_.get(), attribute, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
              H5Aclose, where_, "an attribute cannot be created");
  wrote(H5Awrite(a.get(), type.get(), &pointer), where_, "an attribute cannot be written");
}

void Object::set_integer(const char* attribute, std::int64_t value) {
  const Handle space{H5Screate(H5S_SCALAR), H5Sclose};
  const Handle a = writing(
      H5Acreate2(id_.get(), attribute, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose, where_, "an attribute cannot be created");
  wrote(H5Awrite(a.get(), H5T_NATIVE_INT64, &value), where_, "an attribute cannot be written");
}

void Object::set_integers(const char* attribute, std::span<const std::int32_t> values) {
  const hsize_t count = values.size();
  const Handle space{H5Screate_simple(1, &count, nullptr), H5Sclose};
  const Handle a = writing(
      H5Acreate2(id_.get(), attribute, H5T_STD_I32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose, where_, "an attribute cannot be created");
  if (count > 0)
    wrote(H5Awrite(a.get(), H5T_NATIVE_INT32, values.data()), where_,
          "an attribute cannot be written");
}

Dataset::Dataset(Handle id, std::string where) : Object(std::move(id), std::move(where)) {
  const Handle type = reading(H5Dget_type(id_.get()), H5Tclose, where_, "has no readable type");
  const Handle space = reading(H5Dget_space(id_.get()), H5Sclose, where_, "has no readable shape");
  const H5T_class_t kind = H5Tget_class(type.get());
  numbers_ = kind == H5T_FLOAT     ? Numbers::floating
             : kind == H5T_INTEGER ? Numbers::integer
                                   : Numbers::none;
  bits_ = static_cast<int>(8 * H5Tget_size(type.get()));
  const H5S_class_t form = H5Sget_simple_extent_type(space.get());
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 0 || (form != H5S_SIMPLE && form != H5S_SCALAR)) {
    throw TraceError(where_ + ": expected a scalar or an array, found a dataset without a shape");
  }
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  // 2^48 values are two petabytes: a larger product is damage, and would overflow what is computed
  // from it.
  hsize_t count = 1;
  bool absurd = false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    absurd = absurd || extents[i] > (hsize_t{1} << 48) / std::max<hsize_t>(count, 1);
    count *= absurd ? 1 : extents[i];
    shape_.push_back(static_cast<std::int64_t>(extents[i]));
  }
  if (absurd)
    throw TraceError(fmt::format("{}: the shape [{}] is absurd", where_, fmt::join(shape_, ", ")));
}

std::size_t Dataset::count() const {
  std::size_t n = 1;
  for (const std::int64_t extent : shape_) n *= static_cast<std::size_t>(extent);
  return n;
}

void Dataset::check_storage() const {
  const Handle list =
      reading(H5Dget_create_plist(id_.get()), H5Pclose, where_, "has no readable properties");
  if (H5Pget_layout(list.get()) == H5D_VIRTUAL || H5Pget_external_count(list.get()) > 0) {
    throw TraceError(where_ + ": its values are kept in another file",
                     "a trace must be one self-contained file");
  }
  const hsize_t value_bytes = static_cast<hsize_t>(bits_) / 8;
  const hsize_t logical = count() * value_bytes;
  const hsize_t stored = H5Dget_storage_size(id_.get());
  if (logical > 0 && stored == 0) {
    throw TraceError(fmt::format(
        "{}: expected {} values, found none: it was created but never written", where_, count()));
  }
  std::array<hsize_t, H5S_MAX_RANK> chunk{};
  hsize_t chunk_bytes = 0;
  if (const int rank = H5Pget_chunk(list.get(), H5S_MAX_RANK, chunk.data()); rank > 0) {
    chunk_bytes = value_bytes;
    for (int i = 0; i < rank; ++i) chunk_bytes *= chunk[static_cast<std::size_t>(i)];
  }
  H5Eclear2(H5E_DEFAULT);  // H5Pget_chunk on another layout
  // gzip cannot do better than 1 : 1032.
  const bool impossible = logical > kMaxChunkBytes && logical / 1100 > stored;
  if (chunk_bytes > kMaxChunkBytes || impossible) {
    throw TraceError(fmt::format("{}: {} bytes cannot come from the {} stored in chunks of {}",
                                 where_, logical, stored, chunk_bytes),
                     "the file is damaged, or its chunks exceed 1 GiB");
  }
}

template <class T>
std::vector<T> Dataset::read(std::int64_t memory_type) const try {
  check_storage();
  std::vector<T> values(count());
  if (!values.empty() &&
      H5Dread(id_.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    read_failed(where_, "cannot be read");
  }
  return values;
} catch (const std::bad_alloc&) {
  throw TraceError(fmt::format("{}: {} values do not fit in memory", where_, count()));
}

std::vector<double> Dataset::read_doubles() const {
  if (numbers_ == Numbers::none)
    throw TraceError(where_ + ": expected numbers, found another type");
  return read<double>(H5T_NATIVE_DOUBLE);
}

std::vector<std::int64_t> Dataset::read_integers() const {
  if (numbers_ != Numbers::integer)
    throw TraceError(where_ + ": expected integers, found another type");
  return read<std::int64_t>(H5T_NATIVE_INT64);
}

void Dataset::set_labels(std::span<const std::string> labels) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    wrote(H5DSset_label(id_.get(), static_cast<unsigned>(i), labels[i].c_str()), where_,
          "a label cannot be written");
  }
}

std::string Group::path_of(const std::string& name) const {
  return where_.ends_with('/') ? where_ + name : fmt::format("{}/{}", where_, name);
}

Child Group::describe(const char* name) const {
  Child child{name, Kind::link, 0};
  H5L_info_t link;
  if (H5Lget_info(id_.get(), name, &link, H5P_DEFAULT) < 0)
    read_failed(path_of(name), "cannot be looked up");
  if (link.type != H5L_TYPE_HARD) return child;
  H5O_info_t info;
  if (H5Oget_info_by_name2(id_.get(), name, &info, H5O_INFO_BASIC, H5P_DEFAULT) < 0) {
    read_failed(path_of(name), "cannot be looked up");
  }
  child.kind = info.type == H5O_TYPE_GROUP     ? Kind::group
               : info.type == H5O_TYPE_DATASET ? Kind::dataset
                                               : Kind::other;
  child.address = info.addr;
  return child;
}

std::vector<Child> Group::children() const {
  const Handle list =
      reading(H5Gget_create_plist(id_.get()), H5Pclose, where_, "has no readable properties");
  unsigned order = 0;
  H5Pget_link_creation_order(list.get(), &order);
  const bool tracked = (order & H5P_CRT_ORDER_TRACKED) != 0;
  std::vector<std::string> names;
  const H5L_iterate_t add = [](hid_t, const char* name, const H5L_info_t*, void* out) {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return herr_t{0};
  };
  if (H5Literate(id_.get(), tracked ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME, H5_ITER_INC, nullptr, add,
                 &names) < 0) {
    read_failed(where_, "cannot be listed");
  }
  std::vector<Child> children;
  for (const std::string& name : names) children.push_back(describe(name.c_str()));
  return children;
}

std::optional<Child> Group::child(const std::string& name) const {
  const htri_t exists = H5Lexists(id_.get(), name.c_str(), H5P_DEFAULT);
  if (exists < 0) read_failed(path_of(name), "cannot be looked up");
  return exists > 0 ? std::optional(describe(name.c_str())) : std::nullopt;
}

Group Group::group(const std::string& name) const {
  std::string path = path_of(name);
  Handle id =
      reading(H5Gopen2(id_.get(), name.c_str(), H5P_DEFAULT), H5Gclose, path, "cannot be opened");
  return {std::move(id), std::move(path)};
}

Dataset Group::dataset(const std::string& name) const {
  std::string path = path_of(name);
  Handle id =
      reading(H5Dopen2(id_.get(), name.c_str(), H5P_DEFAULT), H5Dclose, path, "cannot be opened");
  return {std::move(id), std::move(path)};
}

Group Group::create_group(const std::string& name) {
  std::string path = path_of(name);
  const Handle list = creation_list(H5P_GROUP_CREATE);
  Handle id = writing(H5Gcreate2(id_.get(), name.c_str(), H5P_DEFAULT, list.get(), H5P_DEFAULT),
                      H5Gclose, path, "cannot be created");
  return {std::move(id), std::move(path)};
}

Dataset Group::create(const std::string& name, std::span<const std::int64_t> shape,
                      std::int64_t file_type, std::int64_t memory_type, const void* values,
                      std::size_t count) {
  std::string path = path_of(name);
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  const Handle space{
      shape.empty() ? H5Screate(H5S_SCALAR)
                    : H5Screate_simple(static_cast<int>(shape.size()), extents.data(), nullptr),
      H5Sclose};
  const Handle list = creation_list(H5P_DATASET_CREATE);
  const std::size_t value_bytes = H5Tget_size(file_type);
  if (count > 0 && count * value_bytes <= kCompactBytes) {
    H5Pset_layout(list.get(), H5D_COMPACT);
  } else if (count > 0) {  // an empty array cannot be cut in chunks
    const auto chunk = chunk_shape(extents, value_bytes);
    H5Pset_chunk(list.get(), static_cast<int>(chunk.size()), chunk.data());
    H5Pset_shuffle(list.get());
    H5Pset_deflate(list.get(), 4);
    H5Pset_fletcher32(list.get());
  }
  Handle id = writing(H5Dcreate2(id_.get(), name.c_str(), file_type, space.get(), H5P_DEFAULT,
                                 list.get(), H5P_DEFAULT),
                      H5Dclose, path, "cannot be created");
  if (count > 0) {
    wrote(H5Dwrite(id.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), path,
          "cannot be written");
  }
  return {std::move(id), std::move(path)};
}

Dataset Group::create(const std::string& name, std::span<const std::int64_t> shape,
                      std::span<const double> values) {
  return create(name, shape, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, values.data(), values.size());
}

Dataset Group::create(const std::string& name, std::span<const std::int64_t> shape,
                      std::span<const float> values) {
  return create(name, shape, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, values.data(), values.size());
}

Dataset Group::create(const std::string& name, std::span<const std::int64_t> shape,
                      std::span<const std::int32_t> values) {
  return create(name, shape, H5T_STD_I32LE, H5T_NATIVE_INT32, values.data(), values.size());
}

File File::open(const std::filesystem::path& path) {
  prepare_library();
  if (std::filesystem::is_directory(path))
    throw IoError(path.string() + ": expected a file, found a directory");
  if (!std::ifstream(path))
    throw IoError(fmt::format("{}: {}", path.string(), std::strerror(errno)));
  const Handle access = access_list(true);
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0) {
    throw TraceError(
        fmt::format("{}: not a complete HDF5 file: {}", path.string(), innermost_message()),
        "a trace is an HDF5 file (golden/schema.md); copy it again if it was cut off");
  }
  return {Handle{id, H5Fclose}, path.string()};
}

File File::create(const std::filesystem::path& path) {
  prepare_library();
  const Handle access = access_list(false);
  const Handle creation = creation_list(H5P_FILE_CREATE);
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  return {writing(id, H5Fclose, path.string(), "cannot be created"), path.string()};
}

Group File::root() const {
  return {reading(H5Gopen2(id_.get(), "/", H5P_DEFAULT), H5Gclose, name_, "cannot be opened"),
          name_ + ": /"};
}

void File::close() {
  if (!id_.valid()) return;
  wrote(H5Fflush(id_.get(), H5F_SCOPE_LOCAL), name_, "cannot be written");
  if (id_.reset() < 0) write_failed(name_, "cannot be closed");
}

}  // namespace dsv4::golden::hdf5
