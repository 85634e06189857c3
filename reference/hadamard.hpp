// SPDX-License-Identifier: Apache-2.0
// The Walsh-Hadamard transform in natural (Sylvester) order, H[a,b] = (-1)^popcount(a & b), scaled
// by n^-1/2: orthogonal and its own inverse. Official: rotate_activation ("randomized" in its
// docstring; it has no signs).
#pragma once

#include "core/tensor.hpp"

namespace dsv4::reference {

// Every n = x.cols() / heads numbers of a row, n a power of two: x[s, heads * n] -> the same shape.
Mat hadamard(const ConstMatRef& x, Index heads = 1);

}  // namespace dsv4::reference
