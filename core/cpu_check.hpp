// SPDX-License-Identifier: Apache-2.0
// Optimised builds use AVX2 and FMA. On an older processor the first such instruction would end the
// program with "Illegal instruction"; main calls this first and says it in words.
#pragma once

namespace dsv4 {

// A message for the user, or nullptr if this processor can run the program.
const char* cpu_problem();

}  // namespace dsv4
