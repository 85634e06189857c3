// SPDX-License-Identifier: Apache-2.0
#include "golden/trace_file.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <map>
#include <set>

#include "core/error.hpp"
#include "golden/hdf5.hpp"

namespace dsv4::golden {
namespace {

constexpr std::string_view kSchema = "trace/1";
constexpr int kMaxDepth = 16;  // "layers/2/ffn/experts/17/gate" is six

std::string list(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::vector<std::int64_t> read_integer_list(const hdf5::Group& group, const std::string& name) {
  const hdf5::Dataset dataset = group.dataset(name);
  if (dataset.numbers() != hdf5::Numbers::integer || dataset.shape().size() != 1) {
    throw TraceError(
        fmt::format("{}: expected a 1-d array of integers, found {} of shape {}", dataset.where(),
                    dataset.numbers() == hdf5::Numbers::integer ? "integers" : "another type",
                    list(dataset.shape())));
  }
  return dataset.read_integers();
}

hdf5::Group required_group(const hdf5::Group& parent, const std::string& name) {
  const auto child = parent.child(name);
  if (!child || child->kind != hdf5::Kind::group) {
    throw TraceError(fmt::format("{}: expected a group '{}', found {}", parent.where(), name,
                                 child ? "something else" : "none"),
                     "golden/schema.md shows the layout of a trace");
  }
  return parent.group(name);
}

TraceAttributes read_attributes(const hdf5::Group& root) {
  const auto schema = root.text("dsv4_schema");
  if (schema != kSchema) {
    throw TraceError(
        fmt::format("{}: expected attribute dsv4_schema = \"{}\", found {}", root.where(), kSchema,
                    schema ? fmt::format("\"{}\"", *schema) : "no such attribute"),
        "golden/schema.md tells how to write one");
  }
  TraceAttributes a;
  a.config_json = root.text("config_json").value_or("");
  if (a.config_json.empty()) {
    throw TraceError(root.where() + ": expected attribute config_json, found none",
                     "store the text of the checkpoint's config.json there");
  }
  a.rounding = root.text("rounding").value_or("");
  if (!a.rounding.empty() && a.rounding != "exact" && a.rounding != "official") {
    throw TraceError(fmt::format("{}: attribute rounding: expected exact or official, found \"{}\"",
                                 root.where(), a.rounding));
  }
  a.producer = root.text("producer").value_or("");
  a.producer_revision = root.text("producer_revision").value_or("");
  a.official_revision = root.text("official_revision").value_or("");
  a.model_fingerprint = root.text("model_fingerprint").value_or("");
  a.arith = root.text("arith").value_or("");
  a.flags = root.text("flags").value_or("");
  a.seed = root.integer("seed");
  return a;
}

void check_dtype(const hdf5::Dataset& dataset, const std::string& dtype) {
  constexpr std::string_view kKnown[] = {"", "fp64", "fp32", "bf16", "fp16", "int", "uint8"};
  if (std::ranges::find(kKnown, dtype) != std::end(kKnown)) return;
  throw TraceError(
      fmt::format("{}: attribute dtype: expected fp64, fp32, bf16, fp16 or int, found \"{}\"",
                  dataset.where(), dtype),
      "it names the format the values were computed in; leave it out if in doubt");
}

// `rows`: which rows of the call a dataset holds, of at most `limit` there can be.
void check_rows(const hdf5::Dataset& dataset, const std::vector<std::int64_t>& rows,
                std::int64_t limit) {
  const auto& shape = dataset.shape();
  if (shape.empty() || static_cast<std::int64_t>(rows.size()) != shape[0]) {
    throw TraceError(
        fmt::format("{}: attribute rows: expected one number per row, found {} for shape {}",
                    dataset.where(), rows.size(), list(shape)));
  }
  std::int64_t previous = -1;
  for (const std::int64_t row : rows) {
    if (row <= previous || row >= limit) {
      throw TraceError(
          fmt::format("{}: attribute rows: expected ascending numbers in 0…{}, found {} after {}",
                      dataset.where(), limit - 1, row, previous),
          "rows count from the first row of the call, not from position 0");
    }
    previous = row;
  }
}

DatasetInfo describe(const hdf5::Dataset& dataset, std::string name, std::int64_t row_limit) {
  DatasetInfo info;
  info.name = std::move(name);
  info.shape = dataset.shape();
  info.integer = dataset.numbers() == hdf5::Numbers::integer;
  info.bits = dataset.bits();
  info.dtype = dataset.text("dtype").value_or("");
  info.axes = dataset.text("axes").value_or("");
  info.rows = dataset.integers("rows");
  check_dtype(dataset, info.dtype);
  if (info.rows) check_rows(dataset, *info.rows, row_limit);
  return info;
}

// Tap name -> path below the call's group. They differ by more than the separator where a writer
// made one flat dataset "layers.2.attn.qr" instead of groups.
using Paths = std::map<std::string, std::string, std::less<>>;

// Walks the groups below a call. A group that is met twice would make the walk endless, or count
// values twice.
class CallReader {
 public:
  CallReader(CallInfo& call, Paths& paths, std::int64_t row_limit)
      : call_(call), paths_(paths), row_limit_(row_limit) {}

  void walk(const hdf5::Group& group, const std::string& path = {}, int depth = 0) {
    if (depth > kMaxDepth) throw TraceError(group.where() + ": groups are nested too deeply");
    for (const hdf5::Child& child : group.children()) {
      const std::string child_path =
          path.empty() ? child.name : fmt::format("{}/{}", path, child.name);
      if (child.kind == hdf5::Kind::link) {
        throw TraceError(fmt::format("{}: '{}' is a link, expected a group or a dataset",
                                     group.where(), child.name),
                         "store the values themselves, or leave the name out");
      }
      if (child.kind == hdf5::Kind::group) {
        if (!seen_.insert(child.address).second) {
          throw TraceError(
              fmt::format("{}: group '{}' occurs twice in the tree", group.where(), child.name));
        }
        walk(group.group(child.name), child_path, depth + 1);
      } else if (child.kind == hdf5::Kind::dataset && child_path != "positions") {
        add(group.dataset(child.name), child_path);
      }
    }
  }

 private:
  void add(const hdf5::Dataset& dataset, const std::string& path) {
    if (dataset.numbers() == hdf5::Numbers::none) return;  // notes of the producer
    std::string name = path;
    std::ranges::replace(name, '/', '.');
    if (!paths_.emplace(name, path).second)
      throw TraceError(fmt::format("{}: tap {} occurs twice", dataset.where(), name));
    call_.datasets.push_back(describe(dataset, name, row_limit_));
  }

  CallInfo& call_;
  Paths& paths_;
  std::int64_t row_limit_;
  std::set<std::uint64_t> seen_;
};

void read_positions(const hdf5::Group& group, CallInfo& call) {
  const auto start = group.integer("start_pos");
  if (const auto child = group.child("positions"); child && child->kind == hdf5::Kind::dataset) {
    call.positions = read_integer_list(group, "positions");
  }
  if (!start && call.positions.empty()) {
    throw TraceError(
        group.where() + ": expected attribute start_pos or dataset positions, found neither",
        "start_pos is the position of the call's first token");
  }
  const auto& p = call.positions;
  call.start_pos = start ? *start : p.front();
  const bool ascending = std::ranges::adjacent_find(p, std::greater_equal<>{}) == p.end();
  if (call.start_pos < 0 || !ascending || (!p.empty() && p.front() != call.start_pos)) {
    throw TraceError(fmt::format(
        "{}: expected ascending positions from 0 on, found start_pos {} and {} positions",
        group.where(), call.start_pos, p.size()));
  }
}

void read_length(const hdf5::Group& group, CallInfo& call) {
  call.n_tokens = group.integer("n_tokens");
  if (!call.n_tokens) return;
  const std::int64_t n = *call.n_tokens;
  const auto rows = static_cast<std::int64_t>(call.positions.size());
  if (n < 1 || (rows > 0 && call.positions.back() - call.start_pos + 1 > n)) {
    throw TraceError(
        fmt::format("{}: attribute n_tokens: expected the length of the call, found {}",
                    group.where(), n),
        "leave it out where a tap has one row for each token");
  }
}

std::uint32_t call_number(const hdf5::Group& calls, const std::string& name) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) {
    throw TraceError(
        fmt::format("{}: expected call numbers such as 0000, found '{}'", calls.where(), name));
  }
  return number;
}

struct Call {
  std::uint32_t number = 0;
  CallInfo info;
  Paths paths;
};

Call read_call(const hdf5::Group& calls, const std::string& name, std::int64_t n_ids) {
  Call call;
  call.number = call_number(calls, name);
  call.info.name = name;
  const hdf5::Group group = required_group(calls, name);
  read_positions(group, call.info);
  read_length(group, call.info);
  const auto rows = static_cast<std::int64_t>(call.info.positions.size());
  const std::int64_t length = call.info.n_tokens.value_or(n_ids - call.info.start_pos);
  CallReader(call.info, call.paths, rows > 0 ? rows : length).walk(group);
  return call;
}

std::vector<Call> read_calls(const hdf5::Group& group, std::int64_t n_ids) {
  std::vector<Call> calls;
  for (const hdf5::Child& child : group.children())
    calls.push_back(read_call(group, child.name, n_ids));
  std::ranges::stable_sort(calls, {}, &Call::number);
  const auto twice = std::ranges::adjacent_find(calls, {}, &Call::number);
  if (twice != calls.end()) {
    throw TraceError(fmt::format("{}: call {} occurs twice, as '{}' and '{}'", group.where(),
                                 twice->number, twice->info.name, std::next(twice)->info.name));
  }
  return calls;
}

}  // namespace

std::int64_t DatasetInfo::size() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

struct TraceFile::Impl {
  std::filesystem::path path;
  hdf5::File file;
  TraceAttributes attributes;
  std::vector<std::int64_t> ids;
  std::vector<CallInfo> calls;
  std::vector<Paths> paths;  // one per call

  explicit Impl(const std::filesystem::path& p) : path(p), file(hdf5::File::open(p)) {
    const hdf5::Group root = file.root();
    attributes = read_attributes(root);
    const hdf5::Group inputs = required_group(root, "inputs");
    const auto input_ids = inputs.child("input_ids");
    if (!input_ids || input_ids->kind != hdf5::Kind::dataset) {
      throw TraceError(inputs.where() + ": expected a dataset input_ids, found none");
    }
    ids = read_integer_list(inputs, "input_ids");
    for (Call& call :
         read_calls(required_group(root, "calls"), static_cast<std::int64_t>(ids.size()))) {
      calls.push_back(std::move(call.info));
      paths.push_back(std::move(call.paths));
    }
  }

  hdf5::Dataset open(std::size_t call, const DatasetInfo& dataset) const {
    return file.root().dataset(
        fmt::format("calls/{}/{}", calls.at(call).name, paths.at(call).at(dataset.name)));
  }
};

TraceFile::TraceFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
TraceFile::~TraceFile() = default;
TraceFile::TraceFile(TraceFile&&) noexcept = default;
TraceFile& TraceFile::operator=(TraceFile&&) noexcept = default;

const std::filesystem::path& TraceFile::path() const { return impl_->path; }
const TraceAttributes& TraceFile::attributes() const { return impl_->attributes; }
const std::vector<std::int64_t>& TraceFile::input_ids() const { return impl_->ids; }
const std::vector<CallInfo>& TraceFile::calls() const { return impl_->calls; }

const DatasetInfo* TraceFile::find(std::size_t call, std::string_view name) const {
  const auto& datasets = impl_->calls.at(call).datasets;
  const auto found = std::ranges::find(datasets, name, &DatasetInfo::name);
  return found == datasets.end() ? nullptr : &*found;
}

std::vector<double> TraceFile::read(std::size_t call, const DatasetInfo& dataset) const {
  return impl_->open(call, dataset).read_doubles();
}

std::vector<std::int64_t> TraceFile::read_integers(std::size_t call,
                                                   const DatasetInfo& dataset) const {
  return impl_->open(call, dataset).read_integers();
}

}  // namespace dsv4::golden
