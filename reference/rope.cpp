// SPDX-License-Identifier: Apache-2.0
#include "reference/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "reference/parallel.hpp"

namespace dsv4::reference {
namespace {

// The pair index at which a full context of `length` tokens makes `rotations` turns.
Real correction_dim(Real rotations, Real dim, Real base, Real length) {
  const Real two_pi = 2 * std::numbers::pi_v<Real>;
  return dim * std::log(length / (rotations * two_pi)) / (2 * std::log(base));
}

// YaRN: slow pairs are slowed further by `factor`, fast pairs are kept, with a linear ramp between.
Row yarn(const Row& f, const ModelConfig& c, Real base, const Round& round) {
  const auto fp32 = [&](Real x) { return round.fp32("rope.frequencies", x); };
  const Real dim = static_cast<Real>(c.rope_head_dim);
  const Real length = static_cast<Real>(c.original_seq_len);
  const Real low = std::max<Real>(std::floor(correction_dim(c.beta_fast, dim, base, length)), 0);
  Real high = std::min<Real>(std::ceil(correction_dim(c.beta_slow, dim, base, length)), dim - 1);
  if (low == high) high += Real(0.001);
  Row out(f.size());
  for (Index i = 0; i < f.size(); ++i) {
    const Real slope = fp32(fp32(static_cast<Real>(i) - low) / fp32(high - low));
    const Real keep = fp32(1 - std::clamp<Real>(slope, 0, 1));
    const Real slowed = fp32(f(i) / static_cast<Real>(c.rope_factor));
    out(i) = fp32(fp32(slowed * fp32(1 - keep)) + fp32(f(i) * keep));
  }
  return out;
}

}  // namespace

Row rope_frequencies(const ModelConfig& config, std::int64_t ratio, const Round& round) {
  const auto fp32 = [&](Real x) { return round.fp32("rope.frequencies", x); };
  const Real base = ratio == 0 ? config.rope_theta : config.compress_rope_theta;
  Row f(config.rope_head_dim / 2);
  for (Index i = 0; i < f.size(); ++i) {
    const Real exponent = fp32(static_cast<Real>(2 * i) / static_cast<Real>(config.rope_head_dim));
    f(i) = fp32(1 / fp32(std::pow(base, exponent)));
  }
  return ratio != 0 && config.original_seq_len > 0 ? yarn(f, config, base, round) : f;
}

Mat rope(const ConstMatRef& x, Index heads, const Row& frequencies, Positions at, Rotation r,
         const Round& round) {
  const Index c = x.cols() / heads;
  const Index pairs = frequencies.size();
  Mat y = x;
  const bool parallel = worth_threads(x.size());
#pragma omp parallel for if (parallel)
  for (Index s = 0; s < x.rows(); ++s) {
    const Row angle = (static_cast<Real>(at[s]) * frequencies).unaryExpr([&](Real a) {
      return round.fp32("rope.angle", a);
    });
    const Row cos = angle.array().cos();
    const Row sin = r == Rotation::forward ? Row(angle.array().sin()) : Row(-angle.array().sin());
    for (Index h = 0; h < heads; ++h) {
      const Index tail = (h + 1) * c - 2 * pairs;
      for (Index i = 0; i < pairs; ++i) {
        const Real re = x(s, tail + 2 * i);
        const Real im = x(s, tail + 2 * i + 1);
        y(s, tail + 2 * i) = re * cos(i) - im * sin(i);
        y(s, tail + 2 * i + 1) = re * sin(i) + im * cos(i);
      }
    }
  }
  return y;
}

}  // namespace dsv4::reference
