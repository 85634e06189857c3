// SPDX-License-Identifier: Apache-2.0
// The suite's output words as a text file, so that a difference can be located: rows of a case, the
// index of the row's first word, and words in hexadecimal. Case names begin with the tensor cores'
// architecture; what Ampere has like Hopper is written once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dsv4::isa_check {

using Words = std::vector<std::uint32_t>;
using Recorded = std::map<std::string, Words>;  // "hopper/mma_bf16"

// Throw std::invalid_argument if the file cannot be written, or is not such a file.
void write(const std::string& file, const Recorded& words);
Recorded read(const std::string& file);

// In words: how many differ, the first of them, both values; empty if all are equal. `who` made
// `found`, `whose` is expected.
std::string difference(const std::string& name, const Words& expected, const Words& found,
                       const char* whose, const char* who);

}  // namespace dsv4::isa_check
