// SPDX-License-Identifier: Apache-2.0
// The kernels at the sizes of DeepSeek-V4-Flash, with the bytes that each must move: what the
// benchmark times and what its floor is.
#pragma once

#include <cuda_runtime.h>
#include <functional>
#include <string>
#include <vector>

#include "cuda/isa/types.hpp"
#include "cuda/stages/launch_on_gpu.cuh"

namespace dsv4::kernel_bench {

using stages::check;

struct Work {
  std::string kernel, size;
  double bytes = 0;    // read and written once each
  bool small = false;  // its launch is what it costs: timed inside a graph
  std::function<void(cudaStream_t)> launch;
};

// Which random bits of a word are kept, and which are set: random signs and mantissas, exponents
// near zero, so that nothing overflows. Integers are indices, and zero.
template <class T>
struct RandomBits {
  static constexpr std::uint32_t keep = 0, set = 0;
};
template <>
struct RandomBits<float> {
  static constexpr std::uint32_t keep = 0x807FFFFF, set = 0x3F000000;
};
template <>
struct RandomBits<isa::Bf16> {
  static constexpr std::uint32_t keep = 0x807F807F, set = 0x3F003F00;
};
template <>
struct RandomBits<std::uint8_t> {  // of E4M3 and E2M1; a scale is 2^-71 or 2^57
  static constexpr std::uint32_t keep = 0x87878787, set = 0x38383838;
};

void fill(void* p, std::size_t bytes, std::uint32_t keep, std::uint32_t set);

// Memory of the device, filled with random numbers: constant data run faster than a model's.
// Without a device (`real` false) all pointers are null and only the sizes mean something.
class Buffers {
 public:
  explicit Buffers(bool real) : real_(real) {}
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() {
    for (void* p : all_) cudaFree(p);
  }
  template <class T>
  T* make(double count) {
    if (!real_) return nullptr;
    void* p = nullptr;
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    check(cudaMalloc(&p, bytes));
    all_.push_back(p);
    fill(p, bytes, RandomBits<T>::keep, RandomBits<T>::set);
    return static_cast<T*>(p);
  }

 private:
  bool real_;
  std::vector<void*> all_;
};

// Every kernel on `tokens` tokens.
std::vector<Work> works(Buffers& buffers, int tokens, bool small);

}  // namespace dsv4::kernel_bench
