// SPDX-License-Identifier: Apache-2.0
// Stored codes to Real, in bulk. For float64 on x86-64-v3 eight codes are widened at a time, else
// each is looked up. Tests compare every code with dtype.cpp, bit for bit.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <type_traits>
#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#endif

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

// The value of every code, from its definition.
template <std::size_t kCodes>
std::array<Real, kCodes> values(float (*decode)(std::uint8_t)) {
  std::array<Real, kCodes> out;
  for (std::size_t i = 0; i < kCodes; ++i) out[i] = decode(static_cast<std::uint8_t>(i));
  return out;
}

#if defined(__AVX2__) && defined(__F16C__)
constexpr bool kSimd = std::is_same_v<Real, double>;

// The processor widens IEEE halves, subnormals included: codes are moved into their fields.
void widen(__m128i halves, double scale, double* out) {
  const __m256 f = _mm256_cvtph_ps(halves);
  const __m256d s = _mm256_set1_pd(scale);
  _mm256_storeu_pd(out, _mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(f)), s));
  _mm256_storeu_pd(out + 4, _mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(f, 1)), s));
}

// Eight E4M3 codes. With exponent bias 15 in place of 7 they read 2^-8 too little; 127 is NaN.
inline void e4m3_simd(const std::byte* in, double scale, double* out) {
  const __m128i code = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)));
  const __m128i top = _mm_set1_epi16(127 << 7);
  const __m128i sign_and_rest = _mm_set1_epi16(static_cast<short>(0x8000 | 127 << 7));
  const __m128i half = _mm_and_si128(_mm_slli_epi16(code, 7), sign_and_rest);
  const __m128i is_nan = _mm_cmpeq_epi16(_mm_and_si128(half, top), top);
  widen(_mm_or_si128(half, _mm_and_si128(is_nan, _mm_set1_epi16(0x7E00))), 0x1p8 * scale, out);
}

// 32 E2M1 codes: a table gives the upper byte of each half, the lower one is zero.
inline void e2m1_simd(const std::byte* in, double scale, double* out) {
  const __m128i upper = _mm_setr_epi8(0, 0x38, 0x3C, 0x3E, 0x40, 0x42, 0x44, 0x46, -128, -0x48,
                                      -0x44, -0x42, -0x40, -0x3E, -0x3C, -0x3A);
  const __m128i nibble = _mm_set1_epi8(15);
  const __m128i zero = _mm_setzero_si128();
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  const __m128i even = _mm_shuffle_epi8(upper, _mm_and_si128(codes, nibble));
  const __m128i odd = _mm_shuffle_epi8(upper, _mm_and_si128(_mm_srli_epi16(codes, 4), nibble));
  for (const __m128i bytes : {_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)}) {
    widen(_mm_unpacklo_epi8(zero, bytes), scale, out);
    widen(_mm_unpackhi_epi8(zero, bytes), scale, out + 8);
    out += 16;
  }
}
#else
constexpr bool kSimd = false;
inline void e4m3_simd(const std::byte*, Real, Real*) {}
inline void e2m1_simd(const std::byte*, Real, Real*) {}
#endif

template <class T>
void e4m3_run(const std::byte* in, std::int64_t n, T scale, T* out) {
  static const auto table = values<256>(decode_e4m3);
  std::int64_t j = 0;
  if constexpr (kSimd) {
    for (; j + 8 <= n; j += 8) e4m3_simd(in + j, scale, out + j);
  }
  for (; j < n; ++j) out[j] = table[std::to_integer<std::size_t>(in[j])] * scale;
}

// One byte holds the columns 2k (low nibble) and 2k+1 (high nibble).
template <class T>
void e2m1_block(const std::byte* in, T scale, T* out) {
  static const auto table = values<16>(decode_e2m1);
  if constexpr (kSimd) return e2m1_simd(in, scale, out);
  for (std::size_t k = 0; k < kFp4Block / 2; ++k) {
    const auto byte = std::to_integer<std::size_t>(in[k]);
    out[2 * k] = table[byte & 15] * scale;
    out[2 * k + 1] = table[byte >> 4] * scale;
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
  std::array<Real, kFp4Block> part;  // a block of which only some columns are asked for
  for (std::int64_t j = col; j < col + n;) {
    const std::int64_t block = j / kFp4Block;
    const std::int64_t stop = std::min(col + n, (block + 1) * kFp4Block);
    const bool whole = stop - j == kFp4Block;
    const Real scale = scale_value(scales == nullptr ? nullptr : scales + block);
    e2m1_block(in + block * (kFp4Block / 2), scale, whole ? out + (j - col) : part.data());
    if (!whole) std::copy_n(part.data() + j % kFp4Block, stop - j, out + (j - col));
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
