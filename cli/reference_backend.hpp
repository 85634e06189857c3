// SPDX-License-Identifier: Apache-2.0
// The float64 reference behind the conformance waist. A library of its own, so that other programs
// can judge traces by it without this one's command line.
#pragma once

#include <memory>

#include "conformance/backend.hpp"

namespace dsv4::cli {

// Supports every case; keeps the weights of the last one mapped. Throws what reference::Model does.
std::unique_ptr<conformance::Backend> reference_backend();

}  // namespace dsv4::cli
