// SPDX-License-Identifier: Apache-2.0
// The suite on the first GPU.
#include <cuda.h>
#include <cuda_runtime.h>
#include <stdexcept>

#include "cuda/isa_check/cases.hpp"
#include "cuda/isa_check/suite.hpp"

namespace dsv4::isa_check {
namespace {

struct Maps {
  isa::TensorMap m[2];
};

// One block on a multiprocessor: setmaxnreg wants the compiler to know how many registers a thread
// begins with, else ptxas leaves it out.
template <class Case>
__global__ void __launch_bounds__(Case::threads, 1)
    run_body(Arguments a, const __grid_constant__ Maps maps) {
#if __CUDA_ARCH__ >= 900
  a.maps = maps.m;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  Case::body(a);
#else
  if constexpr (!Case::only_90a) Case::body(a);
#endif
#elif __CUDA_ARCH__ >= 890
  if constexpr (Case::architecture <= 89) Case::body(a);
#else
  if constexpr (Case::architecture <= 80) Case::body(a);
#endif
}

void check(cudaError_t e) {
  if (e != cudaSuccess) throw std::runtime_error(cudaGetErrorString(e));
}

isa::TensorMap tensor_map(void* base) {
  static_assert(sizeof(CUtensorMap) == sizeof(isa::TensorMap));
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                         cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) throw std::runtime_error("no cuTensorMapEncodeTiled");
  isa::TensorMap map;
  const cuuint64_t size[2] = {64, 16};
  const cuuint64_t stride[1] = {256};
  const cuuint32_t box[2] = {32, 8};
  const cuuint32_t step[2] = {1, 1};
  const auto result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
      reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, base, size, stride,
      box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) throw std::runtime_error("cuTensorMapEncodeTiled failed");
  return map;
}

template <class Case>
void start(const Arguments& a, const Maps& maps) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = Case::cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(Case::blocks);
  config.blockDim = dim3(Case::threads);
  config.dynamicSmemBytes = Case::shared;
  config.attrs = &cluster;
  config.numAttrs = Case::cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, run_body<Case>, a, maps));
  check(cudaDeviceSynchronize());
}

// The architecture that the code which this GPU runs was compiled for: an sm_89 runs code of sm_80,
// which lacks what only sm_89 has.
template <class Case>
int code_of() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, run_body<Case>));
  return attributes.binaryVersion;
}

template <class Case>
Outcome run_case() {
  Outcome outcome{std::string(Case::name), Case::architecture, {}};
  const int code = code_of<Case>();
  if (code < Case::architecture) return outcome;
  if (Case::only_90a && code != 90) return outcome;
  const auto words = inputs(outcome.name, static_cast<int>(Case::fill), Case::in);
  std::uint32_t *in = nullptr, *out = nullptr;
  check(cudaMalloc(&in, Case::in * 4));
  check(cudaMalloc(&out, Case::out * 4));
  check(cudaMemcpy(in, words.data(), Case::in * 4, cudaMemcpyHostToDevice));
  check(cudaMemset(out, 0xFF, Case::out * 4));
  Maps maps{};
  if (code >= 90) maps = {{tensor_map(in), tensor_map(out)}};
  start<Case>({in, out, nullptr}, maps);
  outcome.words.resize(Case::out);
  check(cudaMemcpy(outcome.words.data(), out, Case::out * 4, cudaMemcpyDeviceToHost));
  check(cudaFree(in));
  check(cudaFree(out));
  return outcome;
}

template <class... Cases>
std::vector<Outcome> run_all(List<Cases...>) {
  return {run_case<Cases>()...};
}

}  // namespace

Gpu find_gpu() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0) {
    return {"", e == cudaSuccess ? "no device" : cudaGetErrorString(e), 0};
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  return {properties.name, "", properties.major * 10 + properties.minor};
}

std::vector<Outcome> on_gpu() { return run_all(AllCases{}); }

}  // namespace dsv4::isa_check
