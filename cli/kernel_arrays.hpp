// SPDX-License-Identifier: Apache-2.0
// Between the reference's matrices and the arrays of kernels.
#pragma once

#include "core/dtype.hpp"
#include "core/rounding.hpp"
#include "core/tensor.hpp"
#include "core/weights.hpp"
#include "cuda/stages/stages.hpp"

namespace dsv4::cli {

template <class M>
stages::Floats floats(const M& m) {
  stages::Floats out(static_cast<std::size_t>(m.size()));
  for (Index i = 0; i < m.size(); ++i) {
    out[static_cast<std::size_t>(i)] = static_cast<float>(m.data()[i]);
  }
  return out;
}

inline stages::Floats floats(const Weight& w) {
  Mat m(w.rows, w.cols);
  dequantize(w, 0, w.rows, 0, w.cols, m.data(), w.cols);
  return floats(m);
}

inline stages::Bf16s bf16s(const Mat& m) {
  stages::Bf16s out;
  for (const float v : floats(m)) out.push_back(encode_bf16(v));
  return out;
}

inline Mat matrix(const stages::Floats& v, Index rows) {
  Mat m(rows, rows == 0 ? 0 : std::ssize(v) / rows);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = v[static_cast<std::size_t>(i)];
  return m;
}

inline Mat matrix(const stages::Bf16s& v, Index rows) {
  stages::Floats wide;
  for (const std::uint16_t code : v) wide.push_back(decode_bf16(code));
  return matrix(wide, rows);
}

// A whole weight, or rows of it whose scales begin with the first of them.
inline stages::Codes codes(const Weight& w) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(w.data);
  return {bytes, w.scale, static_cast<int>(w.rows), static_cast<int>(w.cols), w.dtype == DType::I8};
}

// A rounded value without what it was before.
inline Mat plain(Mat m) { return m; }
inline Mat plain(Stored s) { return std::move(s.value); }

}  // namespace dsv4::cli
