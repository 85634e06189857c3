// SPDX-License-Identifier: Apache-2.0
// How a body of launchers.hpp starts on a GPU, for the stages and for the benchmarks.
#pragma once

#include <cuda_runtime.h>
#include <stdexcept>

#include "cuda/emulator/options.hpp"

namespace dsv4::stages {

inline void check(cudaError_t e) {
  if (e != cudaSuccess) throw std::runtime_error(cudaGetErrorString(e));
}

template <unsigned kThreads, unsigned kResident, class Body>
__global__ void __launch_bounds__(kThreads, kResident) run_body(const Body body) {
  body();
}

template <unsigned kThreads, unsigned kResident, class Body>
__global__ void __launch_bounds__(kThreads, kResident) run_cluster_body(const Body body) {
#if __CUDA_ARCH__ >= 900
  body();
#endif
}

inline int device_attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0));
  return value;
}

class StreamGpu {
 public:
  explicit StreamGpu(cudaStream_t stream = nullptr) : stream_(stream) {}

  template <unsigned kThreads, unsigned kResident, class Body>
  void launch(const emulator::Shape& shape, const Body& body) {
    start(run_body<kThreads, kResident, Body>, shape, body);
  }
  template <unsigned kThreads, unsigned kResident, class Body>
  void launch_cluster(const emulator::Shape& shape, const Body& body) {
    start(run_cluster_body<kThreads, kResident, Body>, shape, body);
  }
  bool clusters() const { return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }
  int processors() const { return device_attribute(cudaDevAttrMultiProcessorCount); }

 private:
  template <class Body>
  void start(void (*kernel)(const Body), const emulator::Shape& shape, const Body& body) {
    if (shape.grid.count() == 0) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared)));
    if (shape.cluster > 8) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    }
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(shape.grid.x, shape.grid.y, shape.grid.z);
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared;
    config.stream = stream_;
    config.attrs = &cluster;
    config.numAttrs = shape.cluster > 1 ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, body));
  }

  cudaStream_t stream_;
};

}  // namespace dsv4::stages
