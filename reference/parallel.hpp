// SPDX-License-Identifier: Apache-2.0
// When to use threads. Work is split into fixed, independent pieces, so their number never changes
// a bit.
#pragma once

#include "core/tensor.hpp"

namespace dsv4::reference {

// Below this many operations, waking a second thread costs more than it saves.
inline bool worth_threads(Index operations) { return operations > Index{1} << 20; }

}  // namespace dsv4::reference
