// SPDX-License-Identifier: Apache-2.0
#include "cli/backends.hpp"

#include <fmt/format.h>

#include "cli/kernel_backend.hpp"
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
  if (name == "emulated")
    return std::make_unique<KernelBackend>(name, stages::on_emulator(), reference_backend());
  if (name == "cuda")
    return std::make_unique<KernelBackend>(name, stages::on_gpu(), reference_backend());
  throw UsageError(fmt::format("backend {}: not known", name),
                   "use --backend reference, emulated or cuda");
}

}  // namespace dsv4::cli
