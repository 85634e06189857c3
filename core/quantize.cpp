// SPDX-License-Identifier: Apache-2.0
// Block-wise quantisation of activations: a scalar definition in terms of dtype.cpp, and on
// x86-64-v3 the same for eight values at a time. Tests compare the two bit for bit.
#include "core/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dsv4 {
namespace {

// 2^(byte - 127) as the bit pattern of a float32; 255, which only an infinite amax gives, is
// infinity here, as in the official kernels, and not E8M0's NaN.
float scale_value(std::uint8_t byte) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(byte) << 23);
}

// ---- the definition -------------------------------------------------------------------------

// The official kernels take maxima and clamp by instructions that return the other operand where
// one is NaN: a NaN does not raise the scale, and is clamped to -largest. So do these, by the order
// of their operands: std::max returns the first unless the second is greater.
float largest_magnitude(const float* x, std::int64_t n, float amax) {
  for (std::int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax;
}

float clamped(float y, float largest) { return std::min(std::max(-largest, y), largest); }

void round_values(const BlockFormat& format, float scale, float* x, std::int64_t n,
                  std::uint8_t* codes) {
  const bool fp8 = format.code == DType::F8_E4M3;
  for (std::int64_t i = 0; i < n; ++i) {
    const float y = clamped(x[i] / scale, format.largest);
    const std::uint8_t code = fp8 ? encode_e4m3(y) : encode_e2m1(y);
    x[i] = (fp8 ? decode_e4m3(code) : decode_e2m1(code)) * scale;
    if (codes != nullptr) codes[i] = code;
  }
}

// ---- eight at a time ------------------------------------------------------------------------

#if defined(__AVX2__)
constexpr std::int64_t kLanes = 8;

__m256 sign_bit() { return _mm256_set1_ps(-0.0F); }

// These maxima return the second operand where either is NaN.
float largest_magnitude_simd(const float* x, std::int64_t n) {
  __m256 amax = _mm256_setzero_ps();
  for (std::int64_t i = 0; i < n; i += kLanes)
    amax = _mm256_max_ps(_mm256_andnot_ps(sign_bit(), _mm256_loadu_ps(x + i)), amax);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(amax), _mm256_extractf128_ps(amax, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return std::max(_mm_cvtss_f32(m), _mm_cvtss_f32(_mm_movehdup_ps(m)));
}

// The eight numbers of 0..255 as bytes.
void store_bytes(__m256i numbers, std::uint8_t* out) {
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(halves, halves));
}

struct Eight {
  __m256 values;
  __m256i codes;
};

// A value v of the binade [2^e, 2^(e+1)) is rounded to multiples of 2^(e-kMantissa) by adding and
// subtracting an offset of 2^(e+23-kMantissa), whose last mantissa bit is worth just that. Below
// the smallest normal, e is that of the smallest normal. The sum's low bits count the steps, from
// which the code follows as in dtype.cpp.
template <int kMantissa, int kBias>
Eight round_simd(__m256 y, __m256 largest) {
  constexpr int kSmallestNormal = (127 + 1 - kBias) << 23;  // the bits of 2^(1-bias)
  constexpr int kSignShift = kMantissa == 3 ? 24 : 28;      // from bit 31 to bit 7 or 3
  const __m256i smallest = _mm256_set1_epi32(kSmallestNormal);
  const __m256i exponent_bits = _mm256_set1_epi32(0xFF << 23);
  const __m256 limited =
      _mm256_min_ps(_mm256_max_ps(y, _mm256_xor_ps(largest, sign_bit())), largest);
  const __m256 sign = _mm256_and_ps(limited, sign_bit());
  const __m256 v = _mm256_andnot_ps(sign_bit(), limited);
  const __m256i binade =
      _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(v), exponent_bits), smallest);
  const __m256i offset = _mm256_add_epi32(binade, _mm256_set1_epi32((23 - kMantissa) << 23));
  const __m256 sum = _mm256_add_ps(v, _mm256_castsi256_ps(offset));
  const __m256i steps = _mm256_sub_epi32(_mm256_castps_si256(sum), offset);
  const __m256i below = _mm256_srli_epi32(_mm256_sub_epi32(binade, smallest), 23 - kMantissa);
  return {_mm256_or_ps(_mm256_sub_ps(sum, _mm256_castsi256_ps(offset)), sign),
          _mm256_or_si256(_mm256_add_epi32(steps, below),
                          _mm256_srli_epi32(_mm256_castps_si256(sign), kSignShift))};
}

// Dividing by the scale, a power of two, is multiplying by its inverse.
template <int kMantissa, int kBias>
void round_values_simd(float largest, float scale, float* x, std::int64_t n, std::uint8_t* codes) {
  const __m256 inverse = _mm256_set1_ps(1 / scale);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Eight q = round_simd<kMantissa, kBias>(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse),
                                                 _mm256_set1_ps(largest));
    _mm256_storeu_ps(x + i, _mm256_mul_ps(q.values, _mm256_set1_ps(scale)));
    if (codes != nullptr) store_bytes(q.codes, codes + i);
  }
}
#else
constexpr std::int64_t kLanes = INT64_MAX;  // every value goes through the definition
float largest_magnitude_simd(const float*, std::int64_t) { return 0; }
template <int, int>
void round_values_simd(float, float, float*, std::int64_t, std::uint8_t*) {}
#endif

// One block; its scale byte.
std::uint8_t block(const BlockFormat& format, float* x, std::int64_t n, std::uint8_t* codes) {
  const std::int64_t most = n / kLanes * kLanes;  // of the values, in whole vectors
  const std::uint8_t byte =
      block_scale(format, largest_magnitude(x + most, n - most, largest_magnitude_simd(x, most)));
  const float scale = scale_value(byte);
  const auto simd =
      format.code == DType::F8_E4M3 ? round_values_simd<3, 7> : round_values_simd<1, 1>;
  simd(format.largest, scale, x, most, codes);
  round_values(format, scale, x + most, n - most, codes == nullptr ? nullptr : codes + most);
  return byte;
}

// ---- margins ----------------------------------------------------------------------------------

// From a magnitude, in units of its scale, to the nearer of the two midpoints around its code.
double code_margin(const BlockFormat& format, float y) {
  const bool fp8 = format.code == DType::F8_E4M3;
  const auto value = [fp8](int code) {
    const auto byte = static_cast<std::uint8_t>(code);
    return static_cast<double>(fp8 ? decode_e4m3(byte) : decode_e2m1(byte));
  };
  const int last = fp8 ? 0x7E : 0x7;
  const float held = clamped(y, format.largest);
  const int code = fp8 ? encode_e4m3(held) : encode_e2m1(held);
  double margin = INFINITY;
  if (code > 0) margin = static_cast<double>(y) - (value(code - 1) + value(code)) / 2;
  if (code < last)
    margin = std::min(margin, (value(code) + value(code + 1)) / 2 - static_cast<double>(y));
  return std::max(0.0, margin);
}

// A block keeps its scale while its largest magnitude stays in (largest scale / 2, largest scale].
double scale_margin(const BlockFormat& format, float amax, float scale) {
  const double most = static_cast<double>(format.largest) * static_cast<double>(scale);
  const double up = most - static_cast<double>(amax);
  const bool at_floor = most / 2 < static_cast<double>(format.floor);
  return std::max(0.0, at_floor ? up : std::min(up, static_cast<double>(amax) - most / 2));
}

}  // namespace

std::uint8_t block_scale(const BlockFormat& format, float amax) {
  const float ratio = std::max(format.floor, amax) * (1 / format.largest);
  const auto bits = std::bit_cast<std::uint32_t>(ratio);
  const std::uint32_t exponent = (bits >> 23) & 255;
  return static_cast<std::uint8_t>(exponent + ((bits & 0x7FFFFF) != 0 ? 1 : 0));
}

void quantize_dequantize(const BlockFormat& format, float* values, std::int64_t count,
                         std::uint8_t* codes, std::uint8_t* scales) {
  for (std::int64_t i = 0; i < count; i += format.block) {
    const std::int64_t n = std::min<std::int64_t>(format.block, count - i);
    const std::uint8_t scale = block(format, values + i, n, codes == nullptr ? nullptr : codes + i);
    if (scales != nullptr) *scales++ = scale;
  }
}

const BlockFormat* block_format(Format format) {
  switch (format) {
    case Format::fp8_1x128:
      return &kFp8Block128;
    case Format::fp8_1x64:
      return &kFp8Block64;
    case Format::fp4_1x32:
      return &kFp4Block32;
    case Format::none:
    case Format::fp32:
    case Format::bf16:
      break;
  }
  return nullptr;
}

void quantization_margins(const BlockFormat& format, const float* values, std::int64_t count,
                          double* margins, double* scale_margins) {
  for (std::int64_t i = 0; i < count; i += format.block) {
    const std::int64_t n = std::min<std::int64_t>(format.block, count - i);
    const float amax = largest_magnitude(values + i, n, 0);
    const float scale = scale_value(block_scale(format, amax));
    if (scale_margins != nullptr) *scale_margins++ = scale_margin(format, amax, scale);
    for (std::int64_t k = i; k < i + n && margins != nullptr; ++k)
      margins[k] = static_cast<double>(scale) * code_margin(format, std::fabs(values[k]) / scale);
  }
}

}  // namespace dsv4
