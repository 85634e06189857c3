// SPDX-License-Identifier: Apache-2.0
// The catalogue of intermediate values (core/taps.tsv, compiled in): one name, shape and dtype a
// stage, the same in every backend, golden and doc. Full names ("layers.3.attn.qr") map to a
// template ("layers.L.attn.qr").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4 {

struct TapInfo {
  std::string name;  // template: L, J, E stand for layer, MTP block, expert
  std::vector<std::string> axes;
  std::string dtype;  // bf16 fp32 fp64 int uint8: what the official code stores there
  std::string site;   // function and variable in the official code
  std::string eq;     // equation of the paper
  std::string
      inputs;  // last column: what this stage reads (conformance/provenance.cpp), "-" = nothing
  bool optional = false;  // written only when asked for; never counted as absent
  bool beside = false;    // a margin, code or scale of the tap before it
  int order = 0;          // position in the file = order of the forward pass
};

struct TapMatch {
  const TapInfo* info = nullptr;
  int block = -1;  // L, or n_layers + J for MTP; -1 for taps outside blocks
  bool mtp = false;
  int index = -1;  // the L or J itself
  int expert = -1;
};

const std::vector<TapInfo>& taps();
// Finds the template of a full name; nullopt: nobody knows this name.
std::optional<TapMatch> find_tap(std::string_view full_name, int n_layers);
// The known template nearest to an unknown name, with its numbers filled in where they match.
std::string nearest_tap(std::string_view full_name);
// `*` matches any run of characters, dots included; `?` one character.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace dsv4
