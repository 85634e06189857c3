// SPDX-License-Identifier: Apache-2.0
// Single stages of the model in float32, as plain loops in the order a careful port would take. The
// inputs are floats already, so what a twin is off by is its own rounding.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/weights.hpp"
#include "reference/rope.hpp"

namespace dsv4::testing::float_twin {

using FloatMat = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline FloatMat weight(const Weight& w) {
  Mat out(w.rows, w.cols);
  dequantize(w, 0, w.rows, 0, w.cols, out.data(), w.cols);
  return out.cast<float>();
}

inline FloatMat linear(const FloatMat& x, const FloatMat& w) {
  FloatMat y(x.rows(), w.rows());
  for (Index m = 0; m < x.rows(); ++m) {
    for (Index n = 0; n < w.rows(); ++n) {
      float sum = 0;
      for (Index k = 0; k < x.cols(); ++k) sum += x(m, k) * w(n, k);
      y(m, n) = sum;
    }
  }
  return y;
}

// `heads` vectors a row, each normalised by itself; an empty weight is all ones.
inline FloatMat rms_norm(const FloatMat& x, Index heads, const std::vector<float>& w, float eps) {
  FloatMat y(x.rows(), x.cols());
  const Index c = x.cols() / heads;
  for (Index s = 0; s < x.rows(); ++s) {
    for (Index h = 0; h < heads; ++h) {
      float square = 0;
      for (Index i = h * c; i < (h + 1) * c; ++i) square += x(s, i) * x(s, i);
      const float factor = 1 / std::sqrt(square / static_cast<float>(c) + eps);
      for (Index i = 0; i < c; ++i) {
        const float normed = x(s, h * c + i) * factor;
        y(s, h * c + i) = w.empty() ? normed : w[static_cast<std::size_t>(i)] * normed;
      }
    }
  }
  return y;
}

inline std::vector<float> frequencies(const ModelConfig& c, std::int64_t ratio) {
  const auto base = static_cast<float>(ratio == 0 ? c.rope_theta : c.compress_rope_theta);
  const auto dim = static_cast<float>(c.rope_head_dim);
  std::vector<float> f;
  for (Index i = 0; i < c.rope_head_dim / 2; ++i)
    f.push_back(1 / std::pow(base, static_cast<float>(2 * i) / dim));
  if (ratio == 0 || c.original_seq_len == 0) return f;
  // The ends of the ramp are whole numbers: computed exactly, as any port does.
  const auto end = [&](double turns) {
    const double full = static_cast<double>(c.original_seq_len);
    return static_cast<double>(c.rope_head_dim) * std::log(full / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(c.compress_rope_theta));
  };
  const auto low = static_cast<float>(std::max(std::floor(end(c.beta_fast)), 0.0));
  const auto high = static_cast<float>(
      std::min(std::ceil(end(c.beta_slow)), static_cast<double>(c.rope_head_dim) - 1));
  for (std::size_t i = 0; i < f.size(); ++i) {
    const float width = low == high ? 0.001F : high - low;
    const float ramp = std::clamp((static_cast<float>(i) - low) / width, 0.0F, 1.0F);
    f[i] = f[i] / static_cast<float>(c.rope_factor) * ramp + f[i] * (1 - ramp);
  }
  return f;
}

inline FloatMat rope(const FloatMat& x, Index heads, const std::vector<float>& f,
                     reference::Positions at, float sign) {
  FloatMat y = x;
  const Index c = x.cols() / heads;
  const Index pairs = std::ssize(f);
  for (Index s = 0; s < x.rows(); ++s) {
    for (Index i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(at[s]) * f[static_cast<std::size_t>(i)];
      const float cos = std::cos(angle);
      const float sin = sign * std::sin(angle);
      for (Index h = 0; h < heads; ++h) {
        const Index k = (h + 1) * c - 2 * pairs + 2 * i;
        y(s, k) = x(s, k) * cos - x(s, k + 1) * sin;
        y(s, k + 1) = x(s, k) * sin + x(s, k + 1) * cos;
      }
    }
  }
  return y;
}

inline FloatMat hadamard(const FloatMat& x, Index heads) {
  FloatMat y(x.rows(), x.cols());
  const Index n = x.cols() / heads;
  const float scale = 1 / std::sqrt(static_cast<float>(n));
  for (Index s = 0; s < x.rows(); ++s) {
    for (Index h = 0; h < heads; ++h) {
      for (Index a = 0; a < n; ++a) {
        float sum = 0;
        for (Index b = 0; b < n; ++b) {
          const bool odd = std::popcount(static_cast<std::uint64_t>(a & b)) % 2 == 1;
          sum += odd ? -x(s, h * n + b) : x(s, h * n + b);
        }
        y(s, h * n + a) = sum * scale;
      }
    }
  }
  return y;
}

inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// One token's n x n logits, row-major.
inline std::vector<float> sinkhorn(std::vector<float> c, std::size_t n, std::int64_t iterations,
                                   float eps) {
  const auto normalise = [&](std::size_t step, std::size_t jump, float extra) {
    for (std::size_t a = 0; a < n; ++a) {
      float sum = 0;
      for (std::size_t b = 0; b < n; ++b) sum += c[a * jump + b * step];
      for (std::size_t b = 0; b < n; ++b) c[a * jump + b * step] /= sum + extra;
    }
  };
  for (std::size_t j = 0; j < n; ++j) {
    const float most = *std::max_element(c.begin() + static_cast<std::ptrdiff_t>(j * n),
                                         c.begin() + static_cast<std::ptrdiff_t>((j + 1) * n));
    for (std::size_t k = 0; k < n; ++k) c[j * n + k] = std::exp(c[j * n + k] - most);
  }
  normalise(1, n, 0);
  for (float& x : c) x += eps;
  normalise(n, 1, eps);
  for (std::int64_t t = 1; t < iterations; ++t) {
    normalise(1, n, eps);
    normalise(n, 1, eps);
  }
  return c;
}

// softmax(score) . value over the slots of one channel
inline float pool(const std::vector<float>& score, const std::vector<float>& value) {
  const float most = *std::max_element(score.begin(), score.end());
  float sum = 0;
  float weighted = 0;
  for (std::size_t i = 0; i < score.size(); ++i) {
    const float e = std::exp(score[i] - most);
    sum += e;
    weighted += e * value[i];
  }
  return weighted / sum;
}

inline float silu(float x) { return x * sigmoid(x); }

inline float sqrt_softplus(float x) { return std::sqrt(x > 20 ? x : std::log1p(std::exp(x))); }

}  // namespace dsv4::testing::float_twin
