// SPDX-License-Identifier: Apache-2.0
// The backends "emulated" and "cuda": the CUDA kernels, run on an emulated or a real GPU on a
// trace's own inputs and judged against the float64 reference. The forward pass itself is the
// reference's, so the trace gets its own verdict as ever; the kernels' verdicts stand beside it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/kernel_judge.hpp"
#include "conformance/backend.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::cli {

class KernelBackend : public conformance::Backend {
 public:
  KernelBackend(std::string name, std::unique_ptr<stages::Stages> kernels,
                std::unique_ptr<conformance::Backend> reference)
      : name_(std::move(name)), kernels_(std::move(kernels)), reference_(std::move(reference)) {}
  std::string_view name() const override { return name_; }
  std::string device() const { return kernels_->device(); }
  conformance::Support supports(const conformance::Case& request) const override;
  void run(const conformance::Case& request, Tap tap) override;

  // One per tap and call, in the order of the forward pass.
  const std::vector<KernelResult>& results() const { return results_; }

 private:
  std::string name_;
  std::unique_ptr<stages::Stages> kernels_;
  std::unique_ptr<conformance::Backend> reference_;
  std::vector<KernelResult> results_;
};

// "PASSED 512, NOT_EXPOSED 30, …", then what failed and what no kernel computes.
std::string kernel_text(const KernelBackend& backend);
nlohmann::ordered_json kernel_json(const KernelBackend& backend);
// 0 all compared passed, 1 a difference, 3 nothing was compared.
int kernel_exit_code(const std::vector<KernelResult>& results);
std::string_view name(KernelVerdict verdict);

}  // namespace dsv4::cli
