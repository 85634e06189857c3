// SPDX-License-Identifier: Apache-2.0
// When to use threads. Work is split into fixed, independent pieces, so their number never changes
// a bit.
#pragma once

#include "core/tensor.hpp"

namespace dsv4::reference {

// Below this many operations (a quarter of a millisecond) waking a second thread costs more than it
// saves, above all where another program wants its core.
inline bool worth_threads(Index operations) { return operations > Index{1} << 22; }

}  // namespace dsv4::reference
