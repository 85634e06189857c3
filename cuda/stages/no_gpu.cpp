// SPDX-License-Identifier: Apache-2.0
// In a build without nvcc.
#include "core/error.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::stages {

std::unique_ptr<Stages> on_gpu() {
  throw UsageError(
      "backend cuda: this program was built without nvcc, so it has no code for a GPU",
      "build with scripts/gpu_check, or use --backend emulated: the same kernels on an "
      "emulated GPU");
}

}  // namespace dsv4::stages
