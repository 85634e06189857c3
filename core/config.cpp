// SPDX-License-Identifier: Apache-2.0
// Reads a config in either official spelling. The fields are in config_fields.hpp, the rules
// between them in config_check.cpp.
#include "core/config.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/config_fields.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/text.hpp"

namespace dsv4 {
namespace {

using detail::Absent;
using detail::FixedField;
using detail::IntField;
using detail::RealField;
using nlohmann::json;
using Fields = std::map<std::string, json, std::less<>>;

// rope_scaling and quantization_config become "rope_scaling.factor" and so on.
Fields flatten(const json& object) {
  Fields out;
  for (const auto& [key, value] : object.items()) {
    out[key] = value;
    if (!value.is_object() || (key != "rope_scaling" && key != "quantization_config")) continue;
    for (const auto& [inner, inner_value] : value.items()) out[key + "." + inner] = inner_value;
  }
  return out;
}

class Reader {
 public:
  Reader(Fields fields, std::string_view where) : fields_(std::move(fields)), where_(where) {
    int hf = 0;
    int inference = 0;
    for (const IntField& f : detail::kInts) {
      if (f.hf == f.inference) continue;
      hf += has(f.hf) ? 1 : 0;
      inference += has(f.inference) ? 1 : 0;
    }
    hf_ = hf >= inference;
  }

  bool hf() const { return hf_; }

  const json* find(std::string_view key) const {
    const auto it = fields_.find(key);
    return it == fields_.end() || it->second.is_null() ? nullptr : &it->second;
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const Fields& fields() const { return fields_; }

  [[noreturn]] void fail(const std::string& what, const std::string& hint = {}) const {
    throw ConfigError(fmt::format("{}: {}", where_, what), hint);
  }

  [[noreturn]] void missing(std::string_view inference, std::string_view hf) const {
    const std::string_view key = hf_ ? hf : inference;
    std::vector<std::string_view> names;
    for (const auto& [name, value] : fields_) names.push_back(name);
    const std::string close = nearest(key, names);
    fail(fmt::format("field \"{}\" is missing", key),
         close.empty()
             ? fmt::format("the same field is called \"{}\" in the {}", hf_ ? inference : hf,
                           hf_ ? "official inference/config.json" : "root config.json")
             : fmt::format("there is a field \"{}\": is that a typing error?", close));
  }

  // The value under either name, checked to be one and the same; null if the field is absent.
  const json* either(std::string_view inference, std::string_view hf) const {
    const json* a = find(inference);
    const json* b = find(hf);
    if (a != nullptr && b != nullptr && *a != *b) {
      fail(fmt::format("\"{}\" is {} but \"{}\", the same quantity, is {}", inference, a->dump(),
                       hf, b->dump()),
           "keep one of the two spellings");
    }
    return a != nullptr ? a : b;
  }

  std::int64_t integer(std::string_view key, const json& v) const {
    if (v.is_number_unsigned() &&
        v.get<std::uint64_t>() >
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail(fmt::format("\"{}\" is too large: {}", key, v.dump()));
    }
    if (v.is_number_integer()) return v.get<std::int64_t>();
    if (v.is_number_float()) {
      const double d = v.get<double>();
      if (d == std::floor(d) && std::fabs(d) < 0x1p53) return static_cast<std::int64_t>(d);
    }
    fail(fmt::format("\"{}\": expected an integer, found {}", key, v.dump()));
  }

  double real(std::string_view key, const json& v) const {
    if (!v.is_number()) fail(fmt::format("\"{}\": expected a number, found {}", key, v.dump()));
    return v.get<double>();
  }

  // The name this file uses for the field, for messages.
  std::string_view spelled(std::string_view inference, std::string_view hf) const {
    return has(inference) ? inference : hf;
  }

  void read(const IntField& f, ModelConfig& out) const {
    const json* v = either(f.inference, f.hf);
    if (v == nullptr) {
      if (!defaulted(f.absent)) missing(f.inference, f.hf);
      out.*f.member = f.fallback;
      return;
    }
    const std::string_view key = spelled(f.inference, f.hf);
    const std::int64_t value = integer(key, *v);
    if (value < f.least || value > f.most) {
      fail(fmt::format("\"{}\": expected {} to {}, found {}", key, f.least, f.most, value));
    }
    out.*f.member = value;
  }

  void read(const RealField& f, ModelConfig& out) const {
    const json* v = either(f.inference, f.hf);
    if (v == nullptr) {
      if (!defaulted(f.absent)) missing(f.inference, f.hf);
      out.*f.member = f.fallback;
      return;
    }
    const std::string_view key = spelled(f.inference, f.hf);
    const double value = real(key, *v);
    if (!std::isfinite(value) || value < 0 || (value == 0 && !f.may_be_zero)) {
      fail(fmt::format("\"{}\": expected a number {} 0, found {}", key, f.may_be_zero ? ">=" : ">",
                       v->dump()));
    }
    out.*f.member = value;
  }

  void check(const FixedField& f) const {
    const json* v = find(f.key);
    if (v == nullptr) {
      if (hf_ && f.required_hf) missing(f.key, f.key);
      return;
    }
    if (*v != json::parse(f.value)) {
      fail(fmt::format("\"{}\": expected {}, found {}", f.key, f.value, v->dump()),
           "DeepSeek-V4 has this one value; other models are not covered");
    }
  }

 private:
  bool defaulted(Absent absent) const {
    return absent == Absent::default_always || (absent == Absent::default_inference && !hf_);
  }

  Fields fields_;
  std::string_view where_;
  bool hf_ = true;
};

void read_yarn(const Reader& r, ModelConfig& out) {
  if (r.hf() && !r.has("rope_scaling") && !r.has(detail::kYarnLength.inference))
    return;  // YaRN off
  if (r.has("rope_scaling") && !r.find("rope_scaling")->is_object()) {
    r.fail(fmt::format("\"rope_scaling\": expected an object or null, found {}",
                       r.find("rope_scaling")->dump()));
  }
  if (r.has("rope_scaling") && !r.has("rope_scaling.type") && !r.has("rope_scaling.rope_type")) {
    r.missing("rope_scaling.type", "rope_scaling.type");
  }
  r.read(detail::kYarnLength, out);
  for (const RealField& f : detail::kYarnReals) r.read(f, out);
}

WeightFormat parse_format(const Reader& r, std::string_view key) {
  const json& v = *r.find(key);
  if (v == "fp8") return WeightFormat::fp8;
  if (v == "bf16") return WeightFormat::bf16;
  if (v == "fp4" && key == "expert_dtype") return WeightFormat::fp4;
  r.fail(fmt::format("\"{}\": expected \"fp8\"{} or \"bf16\", found {}", key,
                     key == "expert_dtype" ? ", \"fp4\"" : "", v.dump()));
}

void read_formats(const Reader& r, ParsedConfig& out) {
  ModelConfig& c = out.config;
  if (!r.hf()) {
    if (!r.has("dtype")) r.missing("dtype", "quantization_config");
    c.weight_format = parse_format(r, "dtype");
  } else if (!r.has("quantization_config")) {
    c.weight_format = WeightFormat::bf16;
  } else {
    if (!r.find("quantization_config")->is_object()) {
      r.fail(fmt::format("\"quantization_config\": expected an object or null, found {}",
                         r.find("quantization_config")->dump()));
    }
    constexpr std::string_view kMethod = "quantization_config.quant_method";
    constexpr std::string_view kBlock = "quantization_config.weight_block_size";
    if (!r.has(kMethod)) r.missing(kMethod, kMethod);
    if (!r.has(kBlock)) r.missing(kBlock, kBlock);
    if (*r.find(kBlock) != json({128, 128})) {
      r.fail(fmt::format("\"{}\": expected [128,128], found {}", kBlock, r.find(kBlock)->dump()),
             "scales per 128x128 block are the only FP8 layout of DeepSeek-V4");
    }
    c.weight_format = WeightFormat::fp8;
  }
  out.expert_dtype_given = r.has("expert_dtype");
  c.expert_format = out.expert_dtype_given ? parse_format(r, "expert_dtype") : c.weight_format;
}

void read_ratios(const Reader& r, ModelConfig& out) {
  const json* v = r.find("compress_ratios");
  if (v == nullptr) {
    r.fail("field \"compress_ratios\" is missing",
           "one entry per layer, MTP blocks appended: 0 window only, 4 CSA, 128 HCA");
  }
  if (!v->is_array()) {
    r.fail(fmt::format("\"compress_ratios\": expected an array, found {}", v->dump()));
  }
  for (std::size_t i = 0; i < v->size(); ++i) {
    const std::string key = fmt::format("compress_ratios[{}]", i);
    const std::int64_t ratio = r.integer(key, (*v)[i]);
    if (ratio < 0 || ratio > detail::kMostWidth) {
      r.fail(fmt::format("\"{}\": expected 0 to {}, found {}", key, detail::kMostWidth, ratio));
    }
    out.compress_ratios.push_back(ratio);
  }
}

bool is_dspark(std::string_view key) { return key.starts_with("dspark_"); }

// Flash-0731: the backbone is the same model; the draft blocks that replace the MTP block are not.
void cut_to_backbone(const Reader& r, ParsedConfig& out) {
  std::string names;
  for (const auto& [key, value] : r.fields()) {
    if (is_dspark(key)) names += (names.empty() ? "" : ", ") + key;
  }
  if (names.empty()) return;
  ModelConfig& c = out.config;
  c.backbone_only = true;
  c.n_mtp_layers = 0;
  if (static_cast<std::int64_t>(c.compress_ratios.size()) > c.n_layers) {
    c.compress_ratios.resize(static_cast<std::size_t>(c.n_layers));
  }
  out.warnings.push_back(
      fmt::format("backbone only: {} describe DSpark draft blocks, which are not covered; the {} "
                  "backbone layers are, mtp.* is ignored",
                  names, c.n_layers));
}

std::set<std::string, std::less<>> known_names() {
  std::set<std::string, std::less<>> out(detail::kIrrelevant.begin(), detail::kIrrelevant.end());
  out.insert(detail::kOther.begin(), detail::kOther.end());
  const auto add = [&out](const auto& field) {
    out.emplace(field.inference);
    out.emplace(field.hf);
  };
  for (const IntField& f : detail::kInts) add(f);
  for (const RealField& f : detail::kReals) add(f);
  for (const RealField& f : detail::kYarnReals) add(f);
  add(detail::kYarnLength);
  for (const FixedField& f : detail::kFixed) out.emplace(f.key);
  return out;
}

void warn_unknown(const Reader& r, ParsedConfig& out) {
  const auto known = known_names();
  for (const auto& [key, value] : r.fields()) {
    if (known.contains(key) || is_dspark(key)) continue;
    const std::string close = nearest(key, known);
    out.warnings.push_back(
        fmt::format("unknown config field \"{}\" is ignored{}", key,
                    close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close)));
  }
}

}  // namespace

ParsedConfig parse_config(std::string_view json_text, std::string_view where) {
  json object;
  try {
    object = parse_json(json_text);
  } catch (const std::exception& e) {
    throw ConfigError(fmt::format("{}: not valid JSON: {}", where, e.what()));
  }
  if (!object.is_object()) {
    throw ConfigError(
        fmt::format("{}: expected a JSON object, found {}", where, object.type_name()));
  }
  const Reader r(flatten(object), where);
  ParsedConfig out;
  const bool dspark =
      std::ranges::any_of(r.fields(), [](const auto& f) { return is_dspark(f.first); });
  for (const FixedField& f : detail::kFixed) r.check(f);
  for (const IntField& f : detail::kInts) {
    if (dspark && f.member == &ModelConfig::n_mtp_layers) continue;
    r.read(f, out.config);
  }
  for (const RealField& f : detail::kReals) r.read(f, out.config);
  if (!r.hf() && !r.has("score_func")) r.missing("score_func", "scoring_func");
  read_yarn(r, out.config);
  read_formats(r, out);
  read_ratios(r, out.config);
  cut_to_backbone(r, out);
  warn_unknown(r, out);
  check_config(out.config, where);
  return out;
}

ParsedConfig read_config(const std::filesystem::path& file) {
  return parse_config(read_text_file(file), file.string());
}

}  // namespace dsv4
