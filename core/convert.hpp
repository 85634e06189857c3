// SPDX-License-Identifier: Apache-2.0
// FP4 experts as FP8: the same numbers in the format of the other matrices, for engines without
// FP4. The official convert.py does this with --expert-dtype fp8 (cast_e2m1fn_to_e4m3fn).
#pragma once

#include <filesystem>

#include "core/checkpoint_writer.hpp"
#include "core/weights.hpp"

namespace dsv4 {

// A copy of the checkpoint with its routed experts in FP8 and "expert_dtype": "fp8" in its config.
// Per 128x128 block the new scale is the largest E8M0 scale in it divided by 2^6, so that 6 * 2^6 =
// 384 still fits E4M3; every value is then multiplied by the quotient of its old scale and the new
// one. That is exact or refused: WeightError names the first value that E4M3 cannot hold (its scale
// is more than 2^14 below the block's largest). Tensors that the manifest does not list are left
// out. Throws UsageError if the experts are not FP4.
WrittenCheckpoint convert_experts_to_fp8(const Checkpoint& checkpoint,
                                         const std::filesystem::path& dir,
                                         const CheckpointOptions& options);

}  // namespace dsv4
