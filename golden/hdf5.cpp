// SPDX-License-Identifier: Apache-2.0
#include "golden/hdf5.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <hdf5.h>
#include <hdf5_hl.h>
#include <new>
#include <type_traits>

#include "core/error.hpp"
#include "golden/hdf5_sizes.hpp"

namespace dsv4::golden::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t> && std::is_same_v<herr_t, int>);
static_assert(std::endian::native == std::endian::little,
              "values are written as they lie in memory");

// Smaller arrays live in their object header, whose checksum covers them: a tree for one chunk
// takes 2.6 kB.
constexpr std::size_t kCompactBytes = 2048;
constexpr hsize_t kMaxAttributeValues = hsize_t{1} << 24;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 26;

// The innermost entry of the library's error stack says what went wrong; the others where it
// passed.
std::string innermost_message() {
  std::string text;
  const H5E_walk2_t take_first = [](unsigned n, const H5E_error2_t* entry, void* out) {
    if (n == 0 && entry->desc) *static_cast<std::string*>(out) = entry->desc;
    return herr_t{0};
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "the HDF5 library gives no reason" : without_address(text);
}

void read(herr_t status, const std::string& where, std::string_view failure = "cannot be read") {
  if (status >= 0) return;
  const std::string reason = innermost_message();
  const bool filter = reason.find("filter") != std::string::npos;
  throw TraceError(
      fmt::format("{}: {}: {}", where, failure, reason),
      filter ? "write it with gzip, or without compression" : "the file is damaged or incomplete");
}

void wrote(herr_t status, const std::string& where,
           std::string_view failure = "cannot be written") {
  if (status >= 0) return;
  const std::string reason = innermost_message();
  const bool full = reason.find("No space") != std::string::npos;
  throw IoError(fmt::format("{}: {}: {}", where, failure, reason),
                full ? "free some space, or write elsewhere; no partial file was left" : "");
}

void expect(bool right, const std::string& where, std::string_view type) {
  if (!right) throw TraceError(fmt::format("{}: expected {}, found another type", where, type));
}

Handle opened(hid_t id, Handle::Close close, const std::string& where) {
  read(id < 0 ? -1 : 0, where, "cannot be opened");
  return {id, close};
}

Handle created(hid_t id, Handle::Close close, const std::string& where) {
  wrote(id < 0 ? -1 : 0, where, "cannot be created");
  return {id, close};
}

// Errors are exceptions, so the library must not print them; after a failed write it must not try
// once more when the program ends; and a file must not make it load code (filter plugins).
void prepare_library() {
  [[maybe_unused]] static const bool once = H5dont_atexit() >= 0 && H5PLset_loading_state(0) >= 0 &&
                                            H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
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

Handle access_list() {
  Handle list = property_list(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(list.get(), H5F_LIBVER_V18, H5F_LIBVER_V110);
  H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(list.get(), false, true);  // locks fail on read-only and network file systems
#endif
  return list;
}

Handle utf8_type() {
  Handle type{H5Tcopy(H5T_C_S1), H5Tclose};
  H5Tset_size(type.get(), H5T_VARIABLE);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

struct OpenAttribute {
  Handle id, type, space;
  std::string where;
  hsize_t count = 0;
};

std::optional<OpenAttribute> open_attribute(hid_t object, const std::string& object_where,
                                            const char* name) {
  OpenAttribute a;
  a.where = fmt::format("{}: attribute '{}'", object_where, name);
  const htri_t exists = H5Aexists(object, name);
  read(exists, a.where);
  if (exists == 0) return std::nullopt;
  a.id = opened(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, a.where);
  a.type = opened(H5Aget_type(a.id.get()), H5Tclose, a.where);
  a.space = opened(H5Aget_space(a.id.get()), H5Sclose, a.where);
  const hssize_t count = H5Sget_simple_extent_npoints(a.space.get());
  const int rank = H5Sget_simple_extent_ndims(a.space.get());
  if (count < 0 || static_cast<hsize_t>(count) > kMaxAttributeValues || rank > 1) {
    throw TraceError(fmt::format(
        "{}: expected a scalar or a list, found {} values in {} dimensions", a.where, count, rank));
  }
  a.count = static_cast<hsize_t>(count);
  return a;
}

std::vector<std::string> read_variable_texts(const OpenAttribute& a, hid_t memory_type) {
  std::vector<char*> pointers(a.count, nullptr);
  read(H5Aread(a.id.get(), memory_type, pointers.data()), a.where);
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
  std::string bytes(a.count * width, '\0');
  read(H5Aread(a.id.get(), memory_type, bytes.data()), a.where);
  const bool padded = H5Tget_strpad(memory_type) == H5T_STR_SPACEPAD;
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < a.count; ++i) {
    std::string text = bytes.substr(i * width, width);
    text.resize(std::min(text.find('\0'), text.size()));
    if (padded) text.erase(text.find_last_not_of(' ') + 1);
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

std::optional<std::string> Object::text(const char* attribute) const {
  const auto a = open_attribute(id_.get(), where_, attribute);
  if (!a) return std::nullopt;
  expect(H5Tget_class(a->type.get()) == H5T_STRING, a->where, "text");
  const Handle type = opened(H5Tget_native_type(a->type.get(), H5T_DIR_ASCEND), H5Tclose, a->where);
  const bool variable = H5Tis_variable_str(type.get()) > 0;
  const auto texts =
      variable ? read_variable_texts(*a, type.get()) : read_fixed_texts(*a, type.get());
  return fmt::format("{}", fmt::join(texts, ","));
}

std::optional<std::vector<std::int64_t>> Object::integers(const char* attribute) const {
  const auto a = open_attribute(id_.get(), where_, attribute);
  if (!a) return std::nullopt;
  expect(H5Tget_class(a->type.get()) == H5T_INTEGER, a->where, "integers");
  std::vector<std::int64_t> values(a->count);
  if (a->count > 0) read(H5Aread(a->id.get(), H5T_NATIVE_INT64, values.data()), a->where);
  return values;
}

std::optional<std::int64_t> Object::integer(const char* attribute) const {
  const auto values = integers(attribute);
  if (!values) return std::nullopt;
  if (values->size() == 1) return values->front();
  throw TraceError(fmt::format("{}: attribute '{}': expected one integer", where_, attribute));
}

// Null `values`: an empty list.
void Object::set(const char* attribute, std::int64_t type, const Handle& space,
                 const void* values) {
  const std::string where = fmt::format("{}: attribute '{}'", where_, attribute);
  const Handle a =
      created(H5Acreate2(id_.get(), attribute, type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
              H5Aclose, where);
  if (values) wrote(H5Awrite(a.get(), type, values), where);
}

void Object::set_text(const char* attribute, std::string_view value) {
  const std::string copy(value);
  const char* pointer = copy.c_str();
  set(attribute, utf8_type().get(), {H5Screate(H5S_SCALAR), H5Sclose}, &pointer);
}

void Object::set_integer(const char* attribute, std::int64_t value) {
  set(attribute, H5T_STD_I64LE, {H5Screate(H5S_SCALAR), H5Sclose}, &value);
}

void Object::set_integers(const char* attribute, std::span<const std::int32_t> values) {
  const hsize_t count = values.size();
  const void* data = values.empty() ? nullptr : values.data();
  set(attribute, H5T_STD_I32LE, {H5Screate_simple(1, &count, nullptr), H5Sclose}, data);
}

Dataset::Dataset(Handle id, std::string where) : Object(std::move(id), std::move(where)) {
  const Handle type = opened(H5Dget_type(id_.get()), H5Tclose, where_);
  const Handle space = opened(H5Dget_space(id_.get()), H5Sclose, where_);
  if (H5Tget_class(type.get()) == H5T_FLOAT) numbers_ = Numbers::floating;
  if (H5Tget_class(type.get()) == H5T_INTEGER) numbers_ = Numbers::integer;
  bits_ = static_cast<int>(8 * H5Tget_size(type.get()));
  const bool shaped = H5Sget_simple_extent_type(space.get()) != H5S_NULL;
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 0 || !shaped) {
    throw TraceError(where_ + ": expected a scalar or an array, found a dataset without a shape");
  }
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  shape_.assign(extents.begin(), extents.begin() + rank);
  count_ = checked_count(shape_, where_);
}

void Dataset::check_storage() const {
  const Handle list = opened(H5Dget_create_plist(id_.get()), H5Pclose, where_);
  const H5D_layout_t layout = H5Pget_layout(list.get());
  if (layout == H5D_VIRTUAL || H5Pget_external_count(list.get()) > 0) {
    throw TraceError(where_ + ": its values are kept in another file",
                     "a trace must be one self-contained file");
  }
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  const int rank =
      layout == H5D_CHUNKED ? H5Pget_chunk(list.get(), H5S_MAX_RANK, extents.data()) : 0;
  const std::vector<std::uint64_t> chunk(extents.begin(), extents.begin() + std::max(rank, 0));
  const auto value_bytes = static_cast<std::uint64_t>(bits_) / 8;
  check_sizes(where_, count_ * value_bytes, H5Dget_storage_size(id_.get()), value_bytes, chunk);
}

template <class T>
std::vector<T> Dataset::read_as(std::int64_t memory_type) const try {
  check_storage();
  std::vector<T> values(count_);
  if (count_ > 0)
    read(H5Dread(id_.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), where_);
  return values;
} catch (const std::bad_alloc&) {
  throw TraceError(fmt::format("{}: {} values do not fit in memory", where_, count_));
}

std::vector<double> Dataset::read_doubles() const {
  expect(numbers_ != Numbers::none, where_, "numbers");
  return read_as<double>(H5T_NATIVE_DOUBLE);
}

std::vector<std::int64_t> Dataset::read_integers() const {
  expect(numbers_ == Numbers::integer, where_, "integers");
  return read_as<std::int64_t>(H5T_NATIVE_INT64);
}

void Dataset::set_labels(std::span<const std::string> labels) {
  unsigned axis = 0;
  for (const std::string& label : labels)
    wrote(H5DSset_label(id_.get(), axis++, label.c_str()), where_);
}

Child Group::describe(const std::string& name) const {
  Child child{name, Kind::link, 0};
  H5L_info_t link;
  read(H5Lget_info(id_.get(), name.c_str(), &link, H5P_DEFAULT), path_of(name));
  if (link.type != H5L_TYPE_HARD) return child;
  H5O_info_t info;
  read(H5Oget_info_by_name2(id_.get(), name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT),
       path_of(name));
  const bool group = info.type == H5O_TYPE_GROUP;
  child.kind = group ? Kind::group : info.type == H5O_TYPE_DATASET ? Kind::dataset : Kind::other;
  child.address = info.addr;
  return child;
}

std::vector<Child> Group::children() const {
  const Handle list = opened(H5Gget_create_plist(id_.get()), H5Pclose, where_);
  unsigned order = 0;
  H5Pget_link_creation_order(list.get(), &order);
  const H5_index_t index =
      (order & H5P_CRT_ORDER_TRACKED) != 0 ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
  std::vector<std::string> names;
  const H5L_iterate_t add = [](hid_t, const char* name, const H5L_info_t*, void* out) {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return herr_t{0};
  };
  read(H5Literate(id_.get(), index, H5_ITER_INC, nullptr, add, &names), where_);
  std::vector<Child> children;
  for (const std::string& name : names) children.push_back(describe(name));
  return children;
}

std::optional<Child> Group::child(const std::string& name) const {
  const htri_t exists = H5Lexists(id_.get(), name.c_str(), H5P_DEFAULT);
  read(exists, path_of(name));
  return exists > 0 ? std::optional(describe(name)) : std::nullopt;
}

Group Group::group(const std::string& name) const {
  const std::string path = path_of(name);
  return {opened(H5Gopen2(id_.get(), name.c_str(), H5P_DEFAULT), H5Gclose, path), path};
}

Dataset Group::dataset(const std::string& name) const {
  const std::string path = path_of(name);
  return {opened(H5Dopen2(id_.get(), name.c_str(), H5P_DEFAULT), H5Dclose, path), path};
}

Group Group::create_group(const std::string& name) {
  const std::string path = path_of(name);
  const Handle made = creation_list(H5P_GROUP_CREATE);
  return {created(H5Gcreate2(id_.get(), name.c_str(), H5P_DEFAULT, made.get(), H5P_DEFAULT),
                  H5Gclose, path),
          path};
}

Dataset Group::create(const std::string& name, std::span<const std::int64_t> shape, Values values) {
  const std::string path = path_of(name);
  const hid_t type =
      std::array{H5T_IEEE_F64LE, H5T_IEEE_F32LE, H5T_STD_I32LE, H5T_STD_U8LE}.at(values.index());
  const auto bytes = std::visit([](auto v) { return v.size_bytes(); }, values);
  const void* data = std::visit([](auto v) -> const void* { return v.data(); }, values);
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  const int rank = static_cast<int>(shape.size());
  const Handle space{
      rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, extents.data(), nullptr),
      H5Sclose};
  const Handle list = creation_list(H5P_DATASET_CREATE);
  if (bytes > kCompactBytes) {
    const auto chunk = chunk_shape(shape, H5Tget_size(type));
    const std::vector<hsize_t> chunk_extents(chunk.begin(), chunk.end());
    H5Pset_chunk(list.get(), rank, chunk_extents.data());
    H5Pset_shuffle(list.get());
    H5Pset_deflate(list.get(), 4);
    H5Pset_fletcher32(list.get());
  } else if (bytes > 0) {
    H5Pset_layout(list.get(), H5D_COMPACT);
  }
  Handle id = created(
      H5Dcreate2(id_.get(), name.c_str(), type, space.get(), H5P_DEFAULT, list.get(), H5P_DEFAULT),
      H5Dclose, path);
  if (bytes > 0) wrote(H5Dwrite(id.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), path);
  return {std::move(id), path};
}

File File::open(const std::filesystem::path& path) {
  prepare_library();
  const std::string shown = path.string();
  if (std::filesystem::is_directory(path)) throw IoError(shown + ": is a directory");
  if (!std::ifstream(path)) throw IoError(fmt::format("{}: {}", shown, std::strerror(errno)));
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access_list().get());
  if (id < 0) {
    throw TraceError(fmt::format("{}: not a complete HDF5 file: {}", shown, innermost_message()),
                     "a trace is an HDF5 file (golden/schema.md); copy it again if it was cut off");
  }
  return {Handle{id, H5Fclose}, shown};
}

File File::create(const std::filesystem::path& path, const std::string& shown) {
  prepare_library();
  const Handle creation = creation_list(H5P_FILE_CREATE);
  return {created(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access_list().get()),
                  H5Fclose, shown),
          shown};
}

Group File::root() const {
  return {opened(H5Gopen2(id_.get(), "/", H5P_DEFAULT), H5Gclose, name_), name_ + ": /"};
}

void File::close() {
  if (!id_.valid()) return;
  wrote(H5Fflush(id_.get(), H5F_SCOPE_LOCAL), name_);
  wrote(id_.reset(), name_);
}

}  // namespace dsv4::golden::hdf5
