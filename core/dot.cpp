// SPDX-License-Identifier: Apache-2.0
// Every E4M3 and E2M1 number is a float64 whose lower 48 bits are zero. So 32 stored bytes become
// the upper 16 bits of their numbers first, 8 bits at a time; then one instruction moves four of
// those words to the tops of four float64, ready to be multiplied. That takes the codes out of
// their order, so x is put into the same order beforehand. A block is summed before it is scaled,
// which rounds nothing: scales are powers of two. NaN, as a code or a scale, is looked for apart:
// one makes the whole row NaN.
#include "core/dot.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <stdexcept>
#include <type_traits>
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

#include "core/error.hpp"

namespace dsv4 {

#if defined(__AVX2__) && defined(__FMA__)
namespace {

constexpr Index kStep = 32;     // bytes in a register
constexpr int kLanes = 4;       // float64 in a register
constexpr int kQuarters = 4;    // of a register of 16 words
constexpr Index kAhead = 1024;  // bytes: a little more than the latency of memory

using Table = std::array<std::uint8_t, 16>;

// table[code] for 32 codes below 16.
__m256i look_up(const Table& table, __m256i codes) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.data()));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half), codes);
}

// Bytes 0-7 and 16-23 become words[0], the other ones words[1].
void interleave(__m256i lower, __m256i upper, __m256i* words) {
  words[0] = _mm256_unpacklo_epi8(lower, upper);
  words[1] = _mm256_unpackhi_epi8(lower, upper);
}

// The words q, q+4, q+8 and q+12 as float64.
__m256d widen(__m256i words, int q) {
  if (q == 0) return _mm256_castsi256_pd(_mm256_slli_epi64(words, 48));
  if (q == 3) return _mm256_castsi256_pd(_mm256_and_si256(words, _mm256_set1_epi64x(-1LL << 48)));
  const long long even = q == 1 ? 0x0302'8080'8080'8080 : 0x0504'8080'8080'8080;
  const long long odd = even + 0x0808'0000'0000'0000;
  return _mm256_castsi256_pd(_mm256_shuffle_epi8(words, _mm256_setr_epi64x(even, odd, even, odd)));
}

// The byte that `widen` puts there, of those that `interleave` was given.
Index byte_of(int half, int q, int lane) { return 8 * half + q + 4 * (lane % 2) + 16 * (lane / 2); }

// The bits of 2^(code - 127 + shift).
std::int64_t power_of_two(std::uint8_t code, int shift) {
  return (std::int64_t{code} + 1023 - 127 + shift) << 52;
}

struct Fp8 {
  static constexpr int kRegisters = 2;     // of words, from one step
  static constexpr Index kBlockSteps = 4;  // 128 codes
  static constexpr Index kScales = 1;      // of each block of steps

  static Index column(int i, int q, int lane) { return byte_of(i, q, lane); }
  static Index scale_count(const Weight& w) { return (w.cols + 127) / 128; }
  static const std::uint8_t* row_scales(const Weight& w, Index row) {
    return w.scale + (w.scale_row + row) / 128 * scale_count(w);
  }

  // The code c >= 8 without its sign is the word 0x4000 + 2c of its number times 256; smaller ones
  // are the subnormals of E4M3, which float64 normalises.
  static void widen_step(__m256i codes, __m256i& largest, __m256i* words) {
    constexpr Table kUpper = {0,    0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                              0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40};
    constexpr Table kDoubledToLower = {0,     0xE0 ^ 2, 0xF0 ^ 4, 0xF8 ^ 6,
                                       0 ^ 8, 4 ^ 10,   8 ^ 12,   12 ^ 14};
    const __m256i c = _mm256_and_si256(codes, _mm256_set1_epi8(0x7F));
    const __m256i sign = _mm256_xor_si256(codes, c);
    const __m256i kind = _mm256_min_epu8(c, _mm256_set1_epi8(8));
    largest = _mm256_max_epu8(largest, c);
    interleave(_mm256_xor_si256(_mm256_add_epi8(c, c), look_up(kDoubledToLower, kind)),
               _mm256_or_si256(sign, look_up(kUpper, kind)), words);
  }
  static __m256d scale(const std::uint8_t* code) {
    return _mm256_castsi256_pd(_mm256_set1_epi64x(power_of_two(*code, -8)));
  }
};

struct Fp4 {
  static constexpr int kRegisters = 4;
  static constexpr Index kBlockSteps = 1;  // two blocks of 32 codes, each in half of a register
  static constexpr Index kScales = 2;

  static Index column(int i, int q, int lane) { return 2 * byte_of(i % 2, q, lane) + i / 2; }
  static Index scale_count(const Weight& w) { return w.cols / 32; }
  static const std::uint8_t* row_scales(const Weight& w, Index row) {
    return w.scale + row * scale_count(w);
  }

  static void widen_step(__m256i codes, __m256i& /*largest*/, __m256i* words) {
    constexpr Table kUpper = {0,    0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                              0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0};
    constexpr Table kLower = {0, 0xE0, 0xF0, 0xF8, 0, 8, 0x10, 0x18,
                              0, 0xE0, 0xF0, 0xF8, 0, 8, 0x10, 0x18};
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i even = _mm256_and_si256(codes, nibble);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
    interleave(look_up(kLower, even), look_up(kUpper, even), words);
    interleave(look_up(kLower, odd), look_up(kUpper, odd), words + 2);
  }
  static __m256d scale(const std::uint8_t* code) {
    const std::int64_t first = power_of_two(code[0], 0);
    const std::int64_t second = power_of_two(code[1], 0);
    return _mm256_castsi256_pd(_mm256_setr_epi64x(first, first, second, second));
  }
};

// One row of W times kTokens rows of x. Each sum is made in the same order for any kTokens.
template <class Format, int kTokens>
class RowProduct {
 public:
  void add_blocks(const double* x, const std::byte* in, Index steps, const std::uint8_t* scales) {
    for (; steps > 0; steps -= Format::kBlockSteps) {
      add_block(x, in, std::min(steps, Format::kBlockSteps), scales);
      x += Format::kBlockSteps * kStepX;
      in += Format::kBlockSteps * kStep;
      scales += Format::kScales;
    }
  }

  bool nan_code() const {
    const __m256i nan = _mm256_cmpeq_epi8(largest_, _mm256_set1_epi8(127));
    return _mm256_movemask_epi8(nan) != 0;
  }

  double sum(int t) const { return (sum_[t][0] + sum_[t][1]) + (sum_[t][2] + sum_[t][3]); }

  static constexpr Index kStepX = Index{Format::kRegisters} * kQuarters * kLanes * kTokens;

 private:
  // Two sums for each token: an FMA need not wait for the one before it.
  using BlockSums = __m256d[kTokens][2];

  void add_step(const double* x, const std::byte* in, BlockSums& sums) {
    // Reading ahead by hand also crosses the page boundaries at which the processor's own stops.
    _mm_prefetch(reinterpret_cast<const char*>(in) + kAhead, _MM_HINT_T0);
    __m256i words[Format::kRegisters];
    Format::widen_step(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)), largest_, words);
#pragma GCC unroll 16
    for (int v = 0; v < Format::kRegisters * kQuarters; ++v) {
      const __m256d w = widen(words[v / kQuarters], v % kQuarters);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t, x += kLanes) {
        sums[t][v % 2] = _mm256_fmadd_pd(w, _mm256_loadu_pd(x), sums[t][v % 2]);
      }
    }
  }

  void add_block(const double* x, const std::byte* in, Index steps, const std::uint8_t* scales) {
    BlockSums sums = {};
    for (Index s = 0; s < steps; ++s) add_step(x + s * kStepX, in + s * kStep, sums);
    const __m256d scale = Format::scale(scales);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      sum_[t] = _mm256_fmadd_pd(_mm256_add_pd(sums[t][0], sums[t][1]), scale, sum_[t]);
    }
  }

  __m256d sum_[kTokens] = {};
  __m256i largest_ = {};  // bytewise, of the codes without their signs
};

template <class Format, int kTokens>
void row(const double* x, const Weight& w, Index n, Real* y, Index y_stride) {
  const std::byte* in = w.data + n * w.row_bytes();
  const std::uint8_t* scales = Format::row_scales(w, n);
  const Index whole = w.row_bytes() / kStep;
  const Index rest = w.row_bytes() % kStep;
  RowProduct<Format, kTokens> product;
  product.add_blocks(x, in, whole, scales);
  if (rest > 0) {
    std::byte last[kStep] = {};  // the zeros behind the last codes add nothing
    std::memcpy(last, in + whole * kStep, static_cast<std::size_t>(rest));
    const std::uint8_t scale[2] = {scales[whole / Format::kBlockSteps * Format::kScales], 0};
    product.add_blocks(x + whole * product.kStepX, last, 1, scale);
  }
  const auto count = static_cast<std::size_t>(Format::scale_count(w));
  const bool nan = product.nan_code() || std::memchr(scales, 255, count) != nullptr;
  for (int t = 0; t < kTokens; ++t) {
    y[t * y_stride] = nan ? std::numeric_limits<double>::quiet_NaN() : product.sum(t);
  }
}

template <class Format, int kTokens>
void rows(const double* x, const Weight& w, Index first, Eigen::Ref<Mat>& y) {
  for (Index n = 0; n < y.cols(); ++n) {
    row<Format, kTokens>(x, w, first + n, y.data() + n, y.outerStride());
  }
}

template <class Format>
void any_tokens(const double* x, const Weight& w, Index first, Eigen::Ref<Mat>& y) {
  switch (y.rows()) {
    case 1:
      return rows<Format, 1>(x, w, first, y);
    case 2:
      return rows<Format, 2>(x, w, first, y);
    case 3:
      return rows<Format, 3>(x, w, first, y);
    case 4:
      return rows<Format, 4>(x, w, first, y);
    default:
      throw std::logic_error("dot: 1 to 4 tokens");
  }
}

template <class Format>
std::vector<double> ordered(const ConstMatRef& x, const Weight& w) {
  const Index steps = (w.row_bytes() + kStep - 1) / kStep;
  const Index codes = Index{Format::kRegisters} * kQuarters * kLanes;
  std::vector<double> out(static_cast<std::size_t>(steps * codes * x.rows()));
  double* to = out.data();
  for (Index s = 0; s < steps; ++s) {
    for (int i = 0; i < Format::kRegisters; ++i) {
      for (int q = 0; q < kQuarters; ++q) {
        for (Index t = 0; t < x.rows(); ++t) {
          for (int lane = 0; lane < kLanes; ++lane, ++to) {
            const Index k = s * codes + Format::column(i, q, lane);
            if (k < x.cols()) *to = static_cast<double>(x(t, k));
          }
        }
      }
    }
  }
  return out;
}

}  // namespace

bool has_dot(const Weight& w) {
  if (!std::is_same_v<Real, double> || w.scale == nullptr) return false;
  return w.dtype == DType::F8_E4M3 || (w.dtype == DType::I8 && w.cols % 32 == 0);
}

std::vector<double> dot_order(const ConstMatRef& x, const Weight& w) {
  return w.dtype == DType::I8 ? ordered<Fp4>(x, w) : ordered<Fp8>(x, w);
}

void dot(const std::vector<double>& x, const Weight& w, Index first, Eigen::Ref<Mat> y) {
  if (first < 0 || first + y.cols() > w.rows) {
    throw WeightError(
        fmt::format("{}: rows {}+{} lie outside 0..{}", w.name, first, y.cols(), w.rows));
  }
  if (w.dtype == DType::I8) {
    any_tokens<Fp4>(x.data(), w, first, y);
  } else {
    any_tokens<Fp8>(x.data(), w, first, y);
  }
}

#else

bool has_dot(const Weight&) { return false; }

std::vector<double> dot_order(const ConstMatRef&, const Weight&) { return {}; }

void dot(const std::vector<double>&, const Weight& w, Index, Eigen::Ref<Mat>) {
  throw std::logic_error(w.name + ": this build has no dot");
}

#endif

}  // namespace dsv4
