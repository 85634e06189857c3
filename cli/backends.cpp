// SPDX-License-Identifier: Apache-2.0
#include "cli/backends.hpp"

#include <fmt/format.h>

#include "cli/emulated_backend.hpp"
#include "cli/reference_backend.hpp"
#include "conformance/bugs/mutants.hpp"
#include "core/error.hpp"

namespace dsv4::cli {

std::unique_ptr<conformance::Backend> make_backend(const std::string& name) {
  if (name == "reference") return reference_backend();
  if (name.starts_with("bug:")) {
    std::vector<std::size_t> thrown;
    for (std::size_t at = 4; at <= name.size();) {
      const std::size_t end = std::min(name.find(',', at), name.size());
      thrown.push_back(bugs::number_of(name.substr(at, end - at)));
      at = end + 1;
    }
    return bugs::mutant(thrown);
  }
  if (name == "emulated") return std::make_unique<EmulatedBackend>(reference_backend());
  if (name == "cuda") {
    throw UsageError(
        "backend cuda: this program was built without nvcc, so it has no code for a GPU",
        "use --backend emulated: the same kernels on an emulated GPU");
  }
  throw UsageError(fmt::format("backend {}: not known", name),
                   "use --backend reference or emulated");
}

}  // namespace dsv4::cli
