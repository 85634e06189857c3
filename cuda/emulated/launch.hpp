// SPDX-License-Identifier: Apache-2.0
// Arrays of the host as buffers of one emulated GPU, for stages*.cpp.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/emulated/stages.hpp"
#include "cuda/emulator/machine.hpp"
#include "cuda/isa/types.hpp"

namespace dsv4::emulated {

class Gpu {
 public:
  explicit Gpu(const Options& options) : options_(options) {}

  // An array of the host; null where it is empty.
  const isa::Bf16* in(const char* name, const Bf16s& v) {
    return reinterpret_cast<const isa::Bf16*>(constant(name, v));
  }
  template <class T>
  const T* constant(const char* name, const std::vector<T>& v) {
    return v.empty() ? nullptr : memory_.constant(name, std::span<const T>(v));
  }
  // A copy, aligned as memory of a GPU is: in a checkpoint's file tensors begin anywhere.
  const std::uint8_t* aligned(const char* name, const std::uint8_t* data, std::size_t count) {
    copies_.push_back(std::make_unique_for_overwrite<std::uint8_t[]>(count));
    std::copy_n(data, count, copies_.back().get());
    return memory_.constant(name, std::span<const std::uint8_t>(copies_.back().get(), count));
  }
  template <class T>
  T* out(const char* name, std::size_t count) {
    return count == 0 ? nullptr : memory_.make<T>(name, count);
  }
  isa::Bf16* out_bf16(const char* name, std::size_t count) {
    return reinterpret_cast<isa::Bf16*>(out<std::uint16_t>(name, count));
  }
  template <class Kernel>
  void launch(const emulator::Shape& shape, Kernel&& kernel) {
    if (shape.grid.count() > 0) emulator::launch(shape, options_, memory_, kernel);
  }

 private:
  Options options_;
  emulator::GlobalMemory memory_;
  std::vector<std::unique_ptr<std::uint8_t[]>> copies_;
};

inline Bf16s take(const isa::Bf16* p, std::size_t count) {
  const auto* words = reinterpret_cast<const std::uint16_t*>(p);
  return p == nullptr ? Bf16s{} : Bf16s(words, words + count);
}
template <class T>
std::vector<T> take(const T* p, std::size_t count) {
  return p == nullptr ? std::vector<T>{} : std::vector<T>(p, p + count);
}

inline unsigned count(int n) { return static_cast<unsigned>(n); }
inline std::size_t size(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}
inline unsigned blocks(int items, int per) {
  return static_cast<unsigned>((items + per - 1) / per);
}

}  // namespace dsv4::emulated
