// SPDX-License-Identifier: Apache-2.0
// Stored codes to Real, in bulk. Each inner loop is branch-free integer work that g++ turns into
// SIMD; no gathers, no table look-ups, no subnormal arithmetic. Tests compare every code with
// dtype.cpp.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fmt/format.h>

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/weights.hpp"

namespace dsv4 {
namespace {

constexpr std::int64_t kFp8Block = 128;
constexpr std::int64_t kFp4Block = 32;

// A stored number at any address: the container does not promise alignment.
template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// E4M3: sign · 2^(e-7) · (1 + m/8), and for e = 0 m · 2^-9. A code is moved into the fields of a
// float32 whose exponent is rebased by 120; e = 0 is read as if it were e = 1, which is 2^-6 too
// much.
float e4m3(std::uint8_t code) {
  const std::uint32_t u = code & 0x7FU;
  const std::uint32_t subnormal = u < 8 ? 1U : 0U;
  const std::uint32_t bits = (u << 20) + (120U << 23) + (subnormal << 23);
  const float magnitude = std::bit_cast<float>(bits) - (subnormal != 0 ? 0x1p-6F : 0.0F);
  const std::uint32_t nan = u == 0x7F ? 0x7FC00000U : 0U;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(magnitude) | nan) | (code & 0x80U)
                                                                                    << 24);
}

// E2M1: sign · 2^(e-1) · (1 + m/2), and for e = 0 m / 2; the same trick.
float e2m1(std::uint8_t code) {
  const std::uint32_t u = code & 7U;
  const std::uint32_t subnormal = u < 2 ? 1U : 0U;
  const std::uint32_t bits = (u << 22) + (126U << 23) + (subnormal << 23);
  const float magnitude = std::bit_cast<float>(bits) - (subnormal != 0 ? 1.0F : 0.0F);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (code & 8U) << 28);
}

void e4m3_run(const std::byte* in, std::int64_t n, Real scale, Real* out) {
  for (std::int64_t j = 0; j < n; ++j) {
    out[j] = static_cast<Real>(e4m3(std::to_integer<std::uint8_t>(in[j]))) * scale;
  }
}

void e2m1_run(const std::uint8_t* codes, std::int64_t n, Real scale, Real* out) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<Real>(e2m1(codes[j])) * scale;
}

// One byte holds the columns 2k (low nibble) and 2k+1 (high nibble).
void unpack_block(const std::byte* in, std::array<std::uint8_t, kFp4Block>& codes) {
  for (std::size_t k = 0; k < kFp4Block / 2; ++k) {
    const auto byte = std::to_integer<std::uint8_t>(in[k]);
    codes[2 * k] = byte & 15U;
    codes[2 * k + 1] = static_cast<std::uint8_t>(byte >> 4);
  }
}

Real scale_value(const std::uint8_t* scale) {
  return scale == nullptr ? Real{1} : static_cast<Real>(decode_e8m0(*scale));
}

void row_fp8(const Weight& w, std::int64_t row, std::int64_t col, std::int64_t n, Real* out) {
  const std::byte* in = w.data + row * w.cols;
  const std::uint8_t* scales =
      w.scale == nullptr
          ? nullptr
          : w.scale + (w.scale_row + row) / kFp8Block * ((w.cols + kFp8Block - 1) / kFp8Block);
  for (std::int64_t j = col; j < col + n;) {
    const std::int64_t stop = std::min(col + n, (j / kFp8Block + 1) * kFp8Block);
    const Real scale = scale_value(scales == nullptr ? nullptr : scales + j / kFp8Block);
    e4m3_run(in + j, stop - j, scale, out + (j - col));
    j = stop;
  }
}

void row_fp4(const Weight& w, std::int64_t row, std::int64_t col, std::int64_t n, Real* out) {
  const std::byte* in = w.data + row * (w.cols / 2);
  const std::uint8_t* scales = w.scale == nullptr ? nullptr : w.scale + row * (w.cols / kFp4Block);
  std::array<std::uint8_t, kFp4Block> codes;
  for (std::int64_t j = col; j < col + n;) {
    const std::int64_t block = j / kFp4Block;
    const std::int64_t stop = std::min(col + n, (block + 1) * kFp4Block);
    unpack_block(in + block * (kFp4Block / 2), codes);
    const Real scale = scale_value(scales == nullptr ? nullptr : scales + block);
    e2m1_run(codes.data() + j % kFp4Block, stop - j, scale, out + (j - col));
    j = stop;
  }
}

void row_bf16(const Weight& w, std::int64_t row, std::int64_t col, std::int64_t n, Real* out) {
  const std::byte* in = w.data + 2 * (row * w.cols + col);
  for (std::int64_t j = 0; j < n; ++j) {
    const auto bits = static_cast<std::uint32_t>(load<std::uint16_t>(in + 2 * j)) << 16;
    out[j] = static_cast<Real>(std::bit_cast<float>(bits));
  }
}

template <class T>
void row_plain(const Weight& w, std::int64_t row, std::int64_t col, std::int64_t n, Real* out) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  const std::byte* in = w.data + kBytes * (row * w.cols + col);
  for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<Real>(load<T>(in + kBytes * j));
}

using RowFunction = void (*)(const Weight&, std::int64_t, std::int64_t, std::int64_t, Real*);

RowFunction row_function(const Weight& w) {
  switch (w.dtype) {
    case DType::F8_E4M3:
      return row_fp8;
    case DType::I8:
      return row_fp4;
    case DType::BF16:
      return row_bf16;
    case DType::F32:
      return row_plain<float>;
    case DType::F64:
      return row_plain<double>;
    default:
      throw WeightError(fmt::format("{}: {} is not a weight format", w.name, name(w.dtype)),
                        "weights are F8_E4M3, packed E2M1 (I8), BF16, F32 or F64");
  }
}

}  // namespace

void dequantize(const Weight& w, std::int64_t row, std::int64_t n_rows, std::int64_t col,
                std::int64_t n_cols, Real* out, std::int64_t stride) {
  if (row < 0 || n_rows < 0 || row + n_rows > w.rows || col < 0 || n_cols < 0 ||
      col + n_cols > w.cols) {
    throw WeightError(fmt::format("{}: rows {}+{}, columns {}+{} lie outside [{}, {}]", w.name, row,
                                  n_rows, col, n_cols, w.rows, w.cols));
  }
  const RowFunction function = row_function(w);
  for (std::int64_t i = 0; i < n_rows; ++i) function(w, row + i, col, n_cols, out + i * stride);
}

std::int64_t Weight::row_bytes() const {
  return dtype == DType::I8 ? cols / 2 : cols * static_cast<std::int64_t>(size_of(dtype));
}

Weight Weight::row_slice(std::int64_t first, std::int64_t count) const {
  if (first < 0 || count < 0 || first + count > rows) {
    throw WeightError(fmt::format("{}: rows {}+{} lie outside 0..{}", name, first, count, rows));
  }
  Weight out = *this;
  out.rows = count;
  out.data = data + first * row_bytes();
  if (scale == nullptr) return out;
  if (dtype == DType::I8) {
    out.scale = scale + first * (cols / kFp4Block);
  } else {
    out.scale = scale + (scale_row + first) / kFp8Block * ((cols + kFp8Block - 1) / kFp8Block);
    out.scale_row = (scale_row + first) % kFp8Block;
  }
  return out;
}

Weight as_weight(const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>& m,
                 std::string name) {
  Weight out;
  out.rows = m.rows();
  out.cols = m.cols();
  out.data = reinterpret_cast<const std::byte*>(m.data());
  out.name = std::move(name);
  return out;
}

}  // namespace dsv4
