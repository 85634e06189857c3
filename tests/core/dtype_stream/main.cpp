// SPDX-License-Identifier: Apache-2.0
// dsv4_dtype_stream OPERATION: raw numbers from standard input to raw results on standard output,
// so that a Python test can hold our conversions against another library's.
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.hpp"
#include "core/quantize.hpp"

namespace {

using namespace dsv4;

template <class T>
std::vector<T> read() {
  std::vector<T> out(1 << 16);
  std::size_t n = 0;
  while (const std::size_t got = std::fread(out.data() + n, sizeof(T), out.size() - n, stdin)) {
    n += got;
    if (n == out.size()) out.resize(2 * n);
  }
  out.resize(n);
  return out;
}

template <class T>
void write(const std::vector<T>& x) {
  std::fwrite(x.data(), sizeof(T), x.size(), stdout);
}

template <class Code>
void encode(Code (*function)(float)) {
  std::vector<Code> codes;
  for (const float x : read<float>()) codes.push_back(function(x));
  write(codes);
}

// The values, then all codes, then all scales.
void quantize(const BlockFormat& format) {
  std::vector<float> x = read<float>();
  const auto block = static_cast<std::size_t>(format.block);
  std::vector<std::uint8_t> codes(x.size());
  std::vector<std::uint8_t> scales((x.size() + block - 1) / block);
  quantize_dequantize(format, x.data(), static_cast<std::int64_t>(x.size()), codes.data(),
                      scales.data());
  write(x);
  write(codes);
  write(scales);
}

void round() {
  std::vector<Real> x = read<Real>();
  round_bf16(x.data(), static_cast<std::int64_t>(x.size()));
  write(x);
}

const std::map<std::string, void (*)()> kOperations = {
    {"bf16", [] { encode(encode_bf16); }},   {"e4m3", [] { encode(encode_e4m3); }},
    {"e2m1", [] { encode(encode_e2m1); }},   {"e8m0", [] { encode(encode_e8m0); }},
    {"fp8", [] { quantize(kFp8Block128); }}, {"fp8_64", [] { quantize(kFp8Block64); }},
    {"fp4", [] { quantize(kFp4Block32); }},  {"round_bf16", round},
};

}  // namespace

int main(int argc, char** argv) {
  const auto operation = kOperations.find(argc == 2 ? argv[1] : "");
  if (operation == kOperations.end()) {
    std::fputs("usage: dsv4_dtype_stream bf16|e4m3|e2m1|e8m0|fp8|fp8_64|fp4|round_bf16\n", stderr);
    return 2;
  }
  operation->second();
  return 0;
}
