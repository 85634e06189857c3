// SPDX-License-Identifier: Apache-2.0
// Judges what kernels computed against the float64 reference on the same inputs. A stage of the
// reference runs with this sink behind it: every value that the kernel has is compared within the
// stage's bound at float32 and then replaced by the kernel's, so that the next value of the stage
// is recomputed from what the kernel itself had.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cli/kernel_spread.hpp"
#include "core/config.hpp"
#include "core/trace.hpp"

namespace dsv4::cli {

enum class KernelVerdict : std::uint8_t { passed, failed, skipped, not_exposed };

struct KernelResult {
  std::string tap;
  int call = 0;
  KernelVerdict verdict = KernelVerdict::passed;
  std::string reason;
  std::int64_t elements = 0, equal = 0;  // compared; bit for bit the reference's stored value
  double error = 0, bound = 0;           // of the worst element
  std::vector<std::int64_t> index = {};  // its row and column
  // Errors in units of what their size should be (see Roundings, Spread): root mean square, and
  // mean towards larger magnitudes. A kernel that rounds as it should has about 1 or less, and
  // about 0.
  double rms = 0, bias = 0;
};

// How a kernel's float32 operations lie behind a value that is stored on a grid, for what the hard
// bound cannot say: a bound E made of `chain` roundings is reached only if all of them conspire;
// independent ones give E / sqrt(3 chain). What is larger, or leans, is a defect
// (conformance/roundings.hpp). Beside the step of the store it hardly counts; where there is no
// store, give the Spread.
struct Roundings {
  double chain = 1;
  int exact_stage = 0;  // of the kernel, in a stage that the reference calls exact
};

class StageJudge : public TapSink {
 public:
  explicit StageJudge(int call, std::vector<KernelResult>& results)
      : call_(call), results_(results) {}

  // What the kernel computed at a tap (full name); rows as the reference's.
  void kernel(const std::string& tap, Mat value, Roundings r = {}) {
    kernel_[tap] = {std::move(value), r, {}};
  }
  void kernel(const std::string& tap, Mat value, Spread spread) {
    kernel_[tap] = {std::move(value), {}, std::move(spread)};
  }
  void kernel(const std::string& tap, IntMat value) { chosen_[tap] = std::move(value); }
  // An input of the stage, as the kernel had it (float32, widened): not judged.
  void given(const std::string& tap, Mat value) { given_[tap] = std::move(value); }

  void on_value(TapEvent& event) override;
  void on_index(IndexEvent& event) override;
  void on_call(std::int64_t, std::int64_t) override {}
  bool wants(std::string_view name) const override {
    return kernel_.contains(std::string(name)) || chosen_.contains(std::string(name));
  }

  // Compares with values that have no bound to them but must be these, bit for bit.
  void exactly(const std::string& tap, const Mat& kernel, const Mat& expected);

 private:
  struct Computed {
    Mat value;
    Roundings roundings;
    Spread spread;
  };
  void compare(TapEvent& event, const Computed& computed);
  KernelResult& begin(const std::string& tap);

  int call_;
  std::vector<KernelResult>& results_;
  std::map<std::string, Computed> kernel_;
  std::map<std::string, Mat> given_;
  std::map<std::string, IntMat> chosen_;
};

// The kernel's query norm: official numerics store BF16 after every operation, so that only the
// mean and the inverse root can fall on either side of a tie. True if every row is one of the
// outcomes that float32 sums allow. x, y[s, heads * c].
bool legal_head_norm(const Mat& x, const Mat& y, Index heads, Real eps);

}  // namespace dsv4::cli
