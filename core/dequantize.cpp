// SPDX-License-Identifier: Apache-2.0
// Stored codes to Real, in bulk. Each inner loop is branch-free integer work that g++ turns into
// SIMD; no gathers, no table look-ups, no subnormal arithmetic. Tests compare every code with
// dtype.cpp.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <limits>

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
// much. Conditions are sums and shifts: g++ 12 does not vectorise comparisons of mixed widths.
float e4m3(std::uint32_t code) {
  const std::uint32_t u = code & 0x7F;
  const std::uint32_t normal = (u + 120) >> 7;  // e > 0
  const std::uint32_t nan = (u + 1) >> 7;       // u = 127
  const auto biased = std::bit_cast<float>((u << 20) + ((121 - normal) << 23));
  const auto excess = std::bit_cast<float>((1 - normal) * 0x3C800000U);  // 2^-6 or 0
  const auto magnitude = std::bit_cast<std::uint32_t>(biased - excess);
  return std::bit_cast<float>(magnitude | nan * 0x7FC00000U | (code & 0x80) << 24);
}

// E2M1: sign · 2^(e-1) · (1 + m/2), and for e = 0 m / 2; the same trick.
float e2m1(std::uint32_t code) {
  const std::uint32_t u = code & 7;
  const std::uint32_t normal = (u + 6) >> 3;  // e > 0
  const auto biased = std::bit_cast<float>((u << 22) + ((127 - normal) << 23));
  const auto excess = std::bit_cast<float>((1 - normal) * 0x3F800000U);  // 1 or 0
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(biased - excess) | (code & 8) << 28);
}

void e4m3_run(const std::byte* in, std::int64_t n, Real scale, Real* out) {
  for (std::int64_t j = 0; j < n; ++j) {
    out[j] = static_cast<Real>(e4m3(std::to_integer<std::uint32_t>(in[j]))) * scale;
  }
}

void e2m1_run(const std::uint8_t* codes, std::int64_t n, Real scale, Real* out) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<Real>(e2m1(codes[j])) * scale;
}

// One byte holds the columns 2k (low nibble) and 2k+1 (high nibble): eight codes of four bits are
// spread to eight bytes at a time.
void unpack_block(const std::byte* in, std::array<std::uint8_t, kFp4Block>& codes) {
  for (std::size_t k = 0; k < kFp4Block / 8; ++k) {
    std::uint64_t x = load<std::uint32_t>(in + 4 * k);
    x = (x | x << 16) & 0x0000FFFF0000FFFFU;
    x = (x | x << 8) & 0x00FF00FF00FF00FFU;
    x = (x | x << 4) & 0x0F0F0F0F0F0F0F0FU;
    std::memcpy(codes.data() + 8 * k, &x, sizeof x);
  }
}

// decode_e8m0 without ldexp: every power of two of E8M0 is a normal float64.
Real scale_value(const std::uint8_t* scale) {
  if (scale == nullptr) return Real{1};
  if (*scale == 255) return std::numeric_limits<Real>::quiet_NaN();
  return static_cast<Real>(std::bit_cast<double>((std::uint64_t{*scale} + 1023 - 127) << 52));
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
    if (stop - j == kFp4Block) {
      e2m1_run(codes.data(), kFp4Block, scale,
               out + (j - col));  // the usual case, a constant count
    } else {
      e2m1_run(codes.data() + j % kFp4Block, stop - j, scale, out + (j - col));
    }
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
