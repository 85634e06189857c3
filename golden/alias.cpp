// SPDX-License-Identifier: Apache-2.0
#include "golden/alias.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>

#include "core/error.hpp"

namespace dsv4::golden {
namespace {

using Numbers = std::map<char, std::string>;  // what L, J, E stand for

struct Array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::stringstream in(text);
  for (std::string part; std::getline(in, part, at);) out.push_back(part);
  return out;
}

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
}

// Part by part between dots; a placeholder must stand for the same number wherever it occurs.
std::optional<Numbers> match(const std::string& pattern, const std::string& name) {
  const auto want = split(pattern, '.'), have = split(name, '.');
  if (want.size() != have.size()) return std::nullopt;
  Numbers found;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool placeholder = want[i] == "L" || want[i] == "J" || want[i] == "E";
    if (!placeholder && want[i] != have[i]) return std::nullopt;
    if (!placeholder) continue;
    const auto [at, fresh] = found.try_emplace(want[i][0], have[i]);
    if (!is_number(have[i]) || (!fresh && at->second != have[i])) return std::nullopt;
  }
  return found;
}

std::string filled(const std::string& pattern, const Numbers& numbers) {
  std::vector<std::string> parts = split(pattern, '.');
  for (std::string& p : parts)
    if (p.size() == 1 && numbers.contains(p[0])) p = numbers.at(p[0]);
  return fmt::format("{}", fmt::join(parts, "."));
}

std::int64_t product(std::span<const std::int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

struct Step {
  std::string name, argument;
};

Step parsed(const std::string& step) {
  const auto open = step.find('(');
  if (open == step.npos) return {step, {}};
  return {step.substr(0, open), step.substr(open + 1, step.size() - open - 2)};
}

std::pair<std::int64_t, std::int64_t> range(const std::string& text) {
  const auto ends = split(text, '-');
  if (ends.size() != 2 || !is_number(ends[0]) || !is_number(ends[1]))
    throw TraceError("expected a range A-B, found " + text);
  return {std::stoll(ends[0]), std::stoll(ends[1])};
}

// Parts of the axis between `outer` repeats and `inner` values: [first, last].
void cut(Array& a, std::size_t axis, std::int64_t first, std::int64_t last) {
  if (first > last || last >= a.shape[axis])
    throw TraceError(fmt::format("{}-{} lies outside an axis of {}", first, last, a.shape[axis]));
  const std::int64_t outer = product(std::span(a.shape).first(axis));
  const std::int64_t inner = product(std::span(a.shape).subspan(axis + 1));
  std::vector<double> kept;
  for (std::int64_t o = 0; o < outer; ++o) {
    const auto at = a.values.begin() + (o * a.shape[axis] + first) * inner;
    kept.insert(kept.end(), at, at + (last - first + 1) * inner);
  }
  a.values = std::move(kept);
  a.shape[axis] = last - first + 1;
}

void heads_second(Array& a) {
  if (a.shape.size() != 3) throw TraceError("heads_second needs three axes");
  const auto [h, s, c] = std::tuple(a.shape[0], a.shape[1], a.shape[2]);
  std::vector<double> turned(a.values.size());
  for (std::int64_t i = 0; i < h * s * c; ++i)
    turned[static_cast<std::size_t>(((i / c % s) * h + i / (s * c)) * c + i % c)] =
        a.values[static_cast<std::size_t>(i)];
  a.values = std::move(turned);
  a.shape = {s, h, c};
}

void apply(const Step& step, Array& a) {
  const auto& shape = a.shape;
  if (step.name == "-" || step.name == "item") return;
  if (shape.empty()) throw TraceError(step.name + " needs an axis");
  if (step.name == "drop_batch") {
    if (shape[0] != 1)
      throw TraceError(fmt::format("drop_batch: expected a first axis of 1, found {}", shape[0]));
    a.shape.erase(a.shape.begin());
  } else if (step.name == "heads_second") {
    heads_second(a);
  } else if (step.name == "split") {
    const std::int64_t n = std::stoll(step.argument);
    if (n <= 0 || shape.back() % n != 0)
      throw TraceError(fmt::format("split({}) of an axis of {}", n, shape.back()));
    const std::int64_t rest = shape.back() / n;
    a.shape.back() = n;
    a.shape.push_back(rest);
  } else if (step.name == "flatten") {
    if (shape.size() < 2) throw TraceError("flatten needs two axes");
    const std::int64_t last = shape.back();
    a.shape.pop_back();
    a.shape.back() *= last;
  } else if (step.name == "last_row") {
    cut(a, 0, shape[0] - 1, shape[0] - 1);
    a.shape.erase(a.shape.begin());
  } else if (step.name == "rows") {
    const auto [first, last] = range(step.argument);
    cut(a, 0, first, last);
  } else if (step.name == "columns") {
    const auto [first, last] = range(step.argument);
    cut(a, shape.size() - 1, first, last);
  } else if (step.name == "scale") {
    for (double& v : a.values) v *= std::stod(step.argument);
  }
}

constexpr std::string_view kSteps[] = {"-",        "drop_batch", "heads_second", "split", "flatten",
                                       "last_row", "rows",       "columns",      "scale", "item"};

void check(const Alias& alias, const std::string& where) {
  for (const std::string& text : alias.steps) {
    const Step step = parsed(text);
    const bool known =
        std::find(std::begin(kSteps), std::end(kSteps), step.name) != std::end(kSteps);
    const bool number = step.name != "split" && step.name != "scale" && step.name != "item";
    if (known && (number || !step.argument.empty())) continue;
    throw TraceError(fmt::format("{}: transform {} is not known", where, text),
                     fmt::format("expected some of {}", fmt::join(kSteps, ", ")));
  }
}

// item(K) asks for the dataset NAME.K.
std::string called(const Alias& alias, const std::string& name) {
  const Step first = parsed(alias.steps.front());
  return first.name == "item" ? name + "." + first.argument : name;
}

Array load(const TraceFile& trace, std::size_t call, const DatasetInfo& d) {
  Array a{d.shape, {}};
  if (d.integer) {
    const auto integers = trace.read_integers(call, d);
    a.values.assign(integers.begin(), integers.end());
  } else {
    a.values = trace.read(call, d);
  }
  return a;
}

// The alias of a dataset, and what its placeholders stand for; a sum belongs to its first name.
std::vector<std::pair<const Alias*, Numbers>> aliases_of(const std::vector<Alias>& aliases,
                                                         const std::string& name) {
  std::vector<std::pair<const Alias*, Numbers>> out;
  for (const Alias& alias : aliases)
    if (auto numbers = match(called(alias, alias.theirs.front()), name))
      out.emplace_back(&alias, std::move(*numbers));
  return out;
}

bool is_summand(const std::vector<Alias>& aliases, const std::string& name) {
  return std::any_of(aliases.begin(), aliases.end(), [&](const Alias& alias) {
    return std::any_of(alias.theirs.begin() + 1, alias.theirs.end(),
                       [&](const auto& other) { return match(other, name).has_value(); });
  });
}

Array taken(const TraceFile& trace, std::size_t call, const DatasetInfo& d, const Alias& alias,
            const Numbers& numbers) {
  Array a = load(trace, call, d);
  for (std::size_t i = 1; i < alias.theirs.size(); ++i) {
    const std::string name = filled(alias.theirs[i], numbers);
    const DatasetInfo* other = trace.find(call, name);
    if (other == nullptr || other->shape != d.shape)
      throw TraceError(fmt::format("{}: {} is to be added to {}, and is absent or of another shape",
                                   trace.path().string(), name, d.name));
    const Array b = load(trace, call, *other);
    for (std::size_t k = 0; k < a.values.size(); ++k) a.values[k] += b.values[k];
  }
  for (const std::string& step : alias.steps) apply(parsed(step), a);
  return a;
}

TraceWriter::Meta meta_of(const TraceFile& trace, const DatasetInfo& d) {
  TraceWriter::Meta meta;
  const bool official = trace.attributes().rounding == "official";
  meta.dtype = !d.dtype.empty() ? d.dtype
               : d.integer      ? "int"
               : official       ? ""
               : d.bits == 64   ? "fp64"
               : d.bits == 32   ? "fp32"
                                : "fp16";
  if (d.rows) meta.rows.assign(d.rows->begin(), d.rows->end());
  return meta;
}

void write(TraceWriter& writer, const std::string& name, const Array& a, bool integer,
           const TraceWriter::Meta& meta) {
  if (!integer) return writer.write(name, a.shape, a.values, meta);
  const std::vector<std::int32_t> values(a.values.begin(), a.values.end());
  writer.write(name, a.shape, std::span<const std::int32_t>(values), meta);
}

}  // namespace

std::vector<Alias> read_aliases(const std::filesystem::path& table) {
  std::ifstream in(table);
  if (!in) throw TraceError(table.string() + ": cannot be read");
  std::vector<Alias> out;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    const std::string where = fmt::format("{}:{}", table.string(), ++number);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line[0] == '#' || line.starts_with("their_name\t")) continue;
    const auto columns = split(line, '\t');
    if (columns.size() != 3)
      throw TraceError(fmt::format("{}: expected three columns, found {}", where, columns.size()),
                       "their name, our name, transform, separated by tabs; - for no transform");
    Alias alias{split(columns[0], '+'), columns[1], split(columns[2], ' ')};
    if (alias.steps.empty()) alias.steps = {"-"};
    check(alias, where);
    out.push_back(std::move(alias));
  }
  return out;
}

std::vector<std::string> not_exposed(const std::vector<Alias>& aliases) {
  std::vector<std::string> out;
  for (const Alias& alias : aliases)
    if (alias.theirs == std::vector<std::string>{"-"}) out.push_back(alias.ours);
  return out;
}

TraceFile renamed(const TraceFile& trace, const std::vector<Alias>& aliases,
                  const std::filesystem::path& path) {
  const std::vector<std::int32_t> ids(trace.input_ids().begin(), trace.input_ids().end());
  TraceWriter writer(path, trace.attributes(), ids);
  for (std::size_t c = 0; c < trace.calls().size(); ++c) {
    const CallInfo& call = trace.calls()[c];
    if (!call.positions.empty())
      throw TraceError(trace.path().string() + ": an alias table with `positions` is not supported",
                       "write start_pos and the attribute `rows` instead");
    writer.begin_call(call.start_pos, call.n_tokens);
    for (const DatasetInfo& d : call.datasets) {
      const auto found = aliases_of(aliases, d.name);
      if (found.empty() && is_summand(aliases, d.name)) continue;
      const TraceWriter::Meta meta = meta_of(trace, d);
      if (found.empty()) write(writer, d.name, load(trace, c, d), d.integer, meta);
      for (const auto& [alias, numbers] : found) {
        try {
          const Array a = taken(trace, c, d, *alias, numbers);
          write(writer, filled(alias->ours, numbers), a, d.integer, meta);
        } catch (const TraceError& e) {
          throw TraceError(fmt::format("{} ({}): {}", d.name, alias->ours, e.what()));
        }
      }
    }
  }
  writer.commit();
  return TraceFile(path);
}

}  // namespace dsv4::golden
