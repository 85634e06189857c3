// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "cuda/emulator/machine.hpp"
#include "cuda/stages/stages_of.hpp"

namespace dsv4::stages {
namespace {

class EmulatedGpu {
 public:
  using Options = emulator::Options;
  explicit EmulatedGpu(const Options& options) : options_(options) {}

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
  float* out_floats(const char* name, std::size_t n) { return out<float>(name, n); }
  std::uint8_t* out_bytes(const char* name, std::size_t n) { return out<std::uint8_t>(name, n); }
  std::int32_t* out_integers(const char* name, std::size_t n) { return out<std::int32_t>(name, n); }
  isa::Bf16* out_bf16(const char* name, std::size_t count) {
    return reinterpret_cast<isa::Bf16*>(out<std::uint16_t>(name, count));
  }
  // Ampere has none. Few processors, so that small inputs take more than one turn of a loop too.
  emulator::TensorCore tensor_core() const { return options_.tensor_core; }
  bool clusters() const { return options_.tensor_core != emulator::TensorCore::ampere; }
  int processors() const { return 32; }
  template <unsigned kThreads, unsigned kResident, class Kernel>
  void launch(const emulator::Shape& shape, Kernel&& kernel) {
    if (shape.threads > kThreads)
      throw std::logic_error("more threads than the kernel is made for");
    if (shape.grid.count() > 0) emulator::launch(shape, options_, memory_, kernel);
  }
  template <unsigned kThreads, unsigned kResident, class Kernel>
  void launch_cluster(const emulator::Shape& shape, Kernel&& kernel) {
    launch<kThreads, kResident>(shape, kernel);
  }
  Bf16s take(const isa::Bf16* p, std::size_t count) const {
    return take(reinterpret_cast<const std::uint16_t*>(p), count);
  }
  template <class T>
  std::vector<T> take(const T* p, std::size_t count) const {
    return p == nullptr ? std::vector<T>{} : std::vector<T>(p, p + count);
  }

 private:
  Options options_;
  emulator::GlobalMemory memory_;
  std::vector<std::unique_ptr<std::uint8_t[]>> copies_;
};

}  // namespace

std::unique_ptr<Stages> on_emulator(const emulator::Options& options) {
  return std::make_unique<StagesOf<EmulatedGpu>>("emulated", options);
}

}  // namespace dsv4::stages
