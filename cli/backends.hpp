// SPDX-License-Identifier: Apache-2.0
// Backends by name, behind the conformance waist.
#pragma once

#include <memory>
#include <string>

#include "conformance/backend.hpp"

namespace dsv4::cli {

// "reference", "emulated", or "bug:M13,M37": the reference with known bugs of the catalogue thrown.
// Throws UsageError for a name nobody knows, or one that this build does not have.
std::unique_ptr<conformance::Backend> make_backend(const std::string& name);

}  // namespace dsv4::cli
