// SPDX-License-Identifier: Apache-2.0
// The stages on the first GPU: the same bodies as in on_emulator.cpp.
#include <cuda_runtime.h>
#include <stdexcept>

#include "core/error.hpp"
#include "cuda/stages/launch_on_gpu.cuh"
#include "cuda/stages/stages_of.hpp"

namespace dsv4::stages {
namespace {

class DeviceGpu : public StreamGpu {
 public:
  struct Options {};
  explicit DeviceGpu(const Options&) {}
  DeviceGpu(const DeviceGpu&) = delete;
  DeviceGpu& operator=(const DeviceGpu&) = delete;
  ~DeviceGpu() {
    for (void* p : allocations_) cudaFree(p);
  }

  // Later ones than Hopper have not been modelled: a difference will say so.
  emulator::TensorCore tensor_core() const {
    return clusters() ? emulator::TensorCore::hopper : emulator::TensorCore::ampere;
  }

  const isa::Bf16* in(const char* name, const Bf16s& v) {
    return reinterpret_cast<const isa::Bf16*>(constant(name, v));
  }
  template <class T>
  const T* constant(const char*, const std::vector<T>& v) {
    return v.empty() ? nullptr : copied(v.data(), v.size());
  }
  const std::uint8_t* aligned(const char*, const std::uint8_t* data, std::size_t count) {
    return copied(data, count);
  }
  // Poisoned: what a kernel forgets to write is NaN.
  template <class T>
  T* out(const char*, std::size_t count) {
    return count == 0 ? nullptr : allocated<T>(count);
  }
  float* out_floats(const char* name, std::size_t n) { return out<float>(name, n); }
  std::uint8_t* out_bytes(const char* name, std::size_t n) { return out<std::uint8_t>(name, n); }
  std::int32_t* out_integers(const char* name, std::size_t n) { return out<std::int32_t>(name, n); }
  isa::Bf16* out_bf16(const char* name, std::size_t count) {
    return reinterpret_cast<isa::Bf16*>(out<std::uint16_t>(name, count));
  }
  Bf16s take(const isa::Bf16* p, std::size_t count) const {
    return take(reinterpret_cast<const std::uint16_t*>(p), count);
  }
  template <class T>
  std::vector<T> take(const T* p, std::size_t count) const {
    std::vector<T> values(p == nullptr ? 0 : count);
    if (p != nullptr)  // the copy waits for the kernel, and returns what went wrong in it
      check(cudaMemcpy(values.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  template <class T>
  T* allocated(std::size_t count) {
    void* p = nullptr;
    check(cudaMalloc(&p, count * sizeof(T)));
    allocations_.push_back(p);
    check(cudaMemset(p, 0xFF, count * sizeof(T)));
    return static_cast<T*>(p);
  }
  template <class T>
  T* copied(const T* data, std::size_t count) {
    T* p = allocated<T>(count);
    check(cudaMemcpy(p, data, count * sizeof(T), cudaMemcpyHostToDevice));
    return p;
  }

  std::vector<void*> allocations_;
};

}  // namespace

std::unique_ptr<Stages> on_gpu() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0) {
    const std::string why = e == cudaSuccess ? "no device" : cudaGetErrorString(e);
    throw UsageError("backend cuda: there is no GPU: " + why,
                     "use --backend emulated: the same kernels on an emulated GPU");
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  const std::string name = std::string(properties.name) + ", sm_" +
                           std::to_string(properties.major * 10 + properties.minor);
  return std::make_unique<StagesOf<DeviceGpu>>(name, DeviceGpu::Options{});
}

}  // namespace dsv4::stages
