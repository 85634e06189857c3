// SPDX-License-Identifier: Apache-2.0
#include "reference/mtp.hpp"

#include <fmt/format.h>

#include "reference/error_bound.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::reference {

MtpWeights load_mtp(const Checkpoint& c, std::int64_t index) {
  const std::string p = fmt::format("mtp.{}", index);
  return {
      load_block(c, p, c.config().n_layers + index),
      c.matrix(p + ".e_proj"),
      c.matrix(p + ".h_proj"),
      c.vector(p + ".enorm.weight"),
      c.vector(p + ".hnorm.weight"),
      c.vector(p + ".norm.weight"),
      {c.matrix(p + ".hc_head_fn"), c.vector(p + ".hc_head_base"), c.vector(p + ".hc_head_scale")}};
}

// [docs:mtp]
Mat mtp_input(const ModelConfig& config, const MtpWeights& w, const ConstMatRef& streams,
              const ConstMatRef& e, const Tap& tap, const Round& round) {
  const Index n = config.hc_mult;
  const Index d = config.dim;
  const Real eps = config.norm_eps;
  const Mat enorm =
      tap.in("enorm")("out[s,d]", round.bf16("mtp.enorm.out", rms_norm(e, w.enorm, eps)),
                      [&] { return error::rms_norm(rms_norm(e, w.enorm, eps), d); });
  // Each stream is normalised and projected by itself: [s, n*d] and [s*n, d] are the same bytes.
  const Mat contiguous = streams;
  const Eigen::Map<const Mat> by_stream(contiguous.data(), streams.rows() * n, d);
  const Mat hnorm =
      tap.in("hnorm")("out[s,n,d]", round.bf16("mtp.hnorm.out", rms_norm(by_stream, w.hnorm, eps)),
                      [&] { return error::rms_norm(rms_norm(by_stream, w.hnorm, eps), d); });
  const Mat enorm8 = round.e4m3("mtp.e_proj.in", enorm, 128).value;
  const Mat hnorm8 = round.e4m3("mtp.h_proj.in", hnorm, 128).value;
  const Mat e_proj =
      tap.in("e_proj")("out[s,d]", round.bf16("mtp.e_proj.out", linear(enorm8, w.e_proj)),
                       [&] { return error::linear(enorm8, w.e_proj); });
  const Mat h_proj =
      tap.in("h_proj")("out[s,n,d]", round.bf16("mtp.h_proj.out", linear(hnorm8, w.h_proj)),
                       [&] { return error::linear(hnorm8, w.h_proj); });
  const Mat x =
      Eigen::Map<const Mat>(h_proj.data(), streams.rows(), n * d) + e_proj.replicate(1, n);
  return tap("x[s,n,d]", round.bf16("mtp.x", x), [&] { return Mat(x.cwiseAbs()); });
}
// [/docs:mtp]

}  // namespace dsv4::reference
