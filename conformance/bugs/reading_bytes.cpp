// SPDX-License-Identifier: Apache-2.0
// A reading as bytes, to send it from one process to another.
#include <nlohmann/json.hpp>

#include "conformance/bugs/reading.hpp"

namespace dsv4::bugs {
namespace {

using nlohmann::json;

// What a search asks of a result.
json to_json(const conformance::Result& r) {
  return {r.tap,    r.call,  r.order, r.block,    static_cast<int>(r.verdict),
          r.reason, r.error, r.bound, r.position, r.magnitude};
}

conformance::Result to_result(const json& j) {
  conformance::Result r;
  r.tap = j[0];
  r.call = j[1];
  r.order = j[2];
  r.block = j[3];
  r.verdict = static_cast<conformance::Verdict>(j[4].get<int>());
  r.reason = j[5];
  r.error = j[6];
  r.bound = j[7];
  r.position = j[8];
  r.magnitude = j[9];
  return r;
}

}  // namespace

std::string packed(const Reading& reading) {
  json residuals = json::array(), results = json::array();
  for (const auto& [place, r] : reading.residuals)
    residuals.push_back({place.first, place.second, r.squares, r.worst, r.count});
  for (const conformance::Result& r : reading.results) results.push_back(to_json(r));
  const auto bytes = json::to_cbor({{"residuals", residuals},
                                    {"results", results},
                                    {"kept", reading.kept},
                                    {"crashed", reading.crashed},
                                    {"spoils", reading.spoils}});
  return {bytes.begin(), bytes.end()};
}

Reading unpacked(const std::string& bytes) {
  const json j = json::from_cbor(bytes);
  Reading reading;
  for (const json& r : j.at("residuals"))
    reading.residuals[{r[0].get<std::string>(), r[1].get<int>()}] = {
        r[2].get<double>(), r[3].get<double>(), r[4].get<std::int64_t>()};
  for (const json& r : j.at("results")) reading.results.push_back(to_result(r));
  reading.kept = j.at("kept").get<std::vector<double>>();
  reading.crashed = j.at("crashed").get<bool>();
  reading.spoils = j.at("spoils").get<bool>();
  return reading;
}

}  // namespace dsv4::bugs
