// SPDX-License-Identifier: Apache-2.0
// Data files compiled into the program, verbatim, so that it works wherever it is installed.
#pragma once

#include <string_view>

namespace dsv4 {

// One of the four official config files: flash, pro (Hugging Face spelling), flash_inference,
// pro_inference. "" for any other name.
std::string_view official_config(std::string_view name);

// One of core/arithmetics, without .json; "" for any other name.
std::string_view bundled_arithmetic(std::string_view name);

// core/sites.tsv.
std::string_view sites_tsv();

// core/taps.tsv.
std::string_view taps_tsv();

}  // namespace dsv4
