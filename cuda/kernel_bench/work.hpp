// SPDX-License-Identifier: Apache-2.0
// The kernels at the sizes of DeepSeek-V4-Flash, with the bytes that each must move: what the
// benchmark times and what its floor is.
#pragma once

#include <cuda_runtime.h>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::kernel_bench {

inline void check(cudaError_t e) {
  if (e != cudaSuccess) throw std::runtime_error(cudaGetErrorString(e));
}

struct Work {
  std::string kernel, size;
  double bytes = 0;    // read and written once each
  bool small = false;  // its launch is what it costs: timed inside a graph
  std::function<void(cudaStream_t)> launch;
};

// Memory of the device, filled with a byte that is a harmless number in every format. Without a
// device (`real` false) all pointers are null and only the sizes mean something.
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
    check(cudaMemset(p, 0x3C, bytes));
    return static_cast<T*>(p);
  }

 private:
  bool real_;
  std::vector<void*> all_;
};

// Every kernel on `tokens` tokens.
std::vector<Work> works(Buffers& buffers, int tokens, bool small);

}  // namespace dsv4::kernel_bench
