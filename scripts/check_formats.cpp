// SPDX-License-Identifier: Apache-2.0
// Every one of the 2^32 float32 patterns through our encoders and through the host functions of
// CUDA's headers, and through the bulk quantiser and the scalar definition. Minutes; no GPU.
// Exit code 0: all agree. Build and run: `make formats`.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/quantize.hpp"
#include "tests/core/dtype_cuda.hpp"

namespace {

using namespace dsv4;

constexpr std::int64_t kPatterns = std::int64_t{1} << 32;
constexpr std::int64_t kChunk = std::int64_t{1} << 16;

struct Counts {
  std::int64_t compared = 0;
  std::int64_t identical = 0;
  std::int64_t nan = 0;  // NaN on both sides, of different payload
  std::int64_t different() const { return compared - identical - nan; }
};
#pragma omp declare reduction(+ : Counts                                      \
                              : omp_out.compared += omp_in.compared,          \
                                omp_out.identical += omp_in.identical,        \
                                omp_out.nan += omp_in.nan)

float pattern(std::int64_t i) { return std::bit_cast<float>(static_cast<std::uint32_t>(i)); }

bool is_nan_bf16(unsigned code) { return (code & 0x7FFF) > 0x7F80; }

// All patterns; ours(x) and theirs(x) are codes, and only BF16's NaN may differ in payload.
template <class Ours, class Theirs>
Counts encoders(bool bf16, Ours ours, Theirs theirs) {
  Counts counts;
#pragma omp parallel for reduction(+ : counts) schedule(dynamic)
  for (std::int64_t chunk = 0; chunk < kPatterns / kChunk; ++chunk) {
    for (std::int64_t i = chunk * kChunk; i < (chunk + 1) * kChunk; ++i) {
      const unsigned a = ours(pattern(i));
      const unsigned b = theirs(pattern(i));
      ++counts.compared;
      if (a == b) {
        ++counts.identical;
      } else if (bf16 && is_nan_bf16(a) && is_nan_bf16(b)) {
        ++counts.nan;
      }
    }
  }
  return counts;
}

// Patterns up to the format's largest value, in blocks that the largest value scales by one: what
// the bulk path makes of them is what encoder and decoder make of each.
Counts quantiser(const BlockFormat& format, std::uint8_t (*encode)(float),
                 float (*decode)(std::uint8_t)) {
  const auto last = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(format.largest));
  const std::int64_t step = format.block / 2 - 1;  // of both signs, and the largest value twice
  Counts counts;
#pragma omp parallel for reduction(+ : counts) schedule(dynamic, 1024)
  for (std::int64_t start = 0; start <= last; start += step) {
    std::vector<float> x(static_cast<std::size_t>(format.block), format.largest);
    std::vector<std::uint8_t> codes(x.size());
    for (std::int64_t i = 0; i < step; ++i) {
      const float value = pattern(std::min(start + i, last));
      x[static_cast<std::size_t>(2 * i)] = value;
      x[static_cast<std::size_t>(2 * i + 1)] = -value;
    }
    const std::vector<float> before = x;
    quantize_dequantize(format, x.data(), format.block, codes.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::uint8_t code = encode(before[i]);
      ++counts.compared;
      counts.identical += codes[i] == code && std::bit_cast<std::uint32_t>(x[i]) ==
                                                  std::bit_cast<std::uint32_t>(decode(code));
    }
  }
  return counts;
}

// True if all is well.
bool print(std::string_view name, const Counts& c) {
  std::printf("%-22.*s %12lld %12lld %12lld %12lld\n", static_cast<int>(name.size()), name.data(),
              static_cast<long long>(c.compared), static_cast<long long>(c.identical),
              static_cast<long long>(c.nan), static_cast<long long>(c.different()));
  std::fflush(stdout);
  return c.compared > 0 && c.different() == 0;
}

}  // namespace

int main() {
#ifdef DSV4_CUDA_HEADERS
  std::printf("%-22s %12s %12s %12s %12s\n", "", "compared", "identical", "both NaN", "different");
  bool ok = print("bf16 / cuda_bf16.h", encoders(true, encode_bf16, cuda::bf16));
  ok &= print("e4m3 / cuda_fp8.h", encoders(false, encode_e4m3, cuda::e4m3));
  ok &= print("e2m1 / cuda_fp4.h", encoders(false, encode_e2m1, cuda::e2m1));
  ok &= print("e8m0 / cuda_fp8.h", encoders(false, encode_e8m0, cuda::e8m0));
  ok &= print("FP8 bulk / scalar", quantiser(kFp8Block128, encode_e4m3, decode_e4m3));
  ok &= print("FP4 bulk / scalar", quantiser(kFp4Block32, encode_e2m1, decode_e2m1));
  return ok ? 0 : 1;
#else
  std::fputs(
      "check_formats: no CUDA toolkit with cuda_fp4.h (12.8 or newer) was found when this "
      "was configured: nothing was compared\n",
      stderr);
  return 3;
#endif
}
