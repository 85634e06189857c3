// SPDX-License-Identifier: Apache-2.0
// The matrix types of the reference. A tensor [s, h, c] is a row-major Mat with s rows and h*c
// columns.
#pragma once

#include <cstdint>

#include <Eigen/Core>

#ifndef DSV4_REAL
#define DSV4_REAL double
#endif

namespace dsv4 {

// The scalar of the reference. The same sources build with `long double` (cmake -DDSV4_REAL="long
// double") to measure the rounding error of the float64 build itself.
using Real = DSV4_REAL;

using Index = Eigen::Index;
using Mat = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Row = Eigen::Matrix<Real, 1, Eigen::Dynamic>;
using IntMat = Eigen::Matrix<std::int32_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstMatRef = Eigen::Ref<const Mat>;

}  // namespace dsv4
