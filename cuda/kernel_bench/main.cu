// SPDX-License-Identifier: Apache-2.0
// dsv4-kernel-bench: every kernel beside its floor, as JSON.
//   dsv4-kernel-bench          on the first GPU; the floor is bytes / the bandwidth of a copy there
//   dsv4-kernel-bench --plan   without a GPU: bytes alone
// Exit code: 0, 2 bad usage, 3 there is no GPU.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda/kernel_bench/work.hpp"

namespace {

using namespace dsv4::kernel_bench;

constexpr int kRepeats = 7;

// Microseconds: the median of a few measurements of `count` launches.
template <class Launch>
double timed(int count, Launch&& launch) {
  cudaStream_t stream{};
  cudaEvent_t begin{}, end{};
  check(cudaStreamCreate(&stream));
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  launch(stream);  // warm
  for (int r = 0; r < kRepeats; ++r) {
    check(cudaEventRecord(begin, stream));
    for (int k = 0; k < count; ++k) launch(stream);
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(1e3 * ms / count);
  }
  check(cudaGetLastError());
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(stream));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// A graph of 100 launches, so that the host's share is not measured.
double timed_in_graph(const Work& w) {
  constexpr int kLaunches = 100;
  cudaStream_t stream{};
  cudaGraph_t graph{};
  cudaGraphExec_t ready{};
  check(cudaStreamCreate(&stream));
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int k = 0; k < kLaunches; ++k) w.launch(stream);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&ready, graph, 0));
  const double us = timed(3, [&](cudaStream_t s) { check(cudaGraphLaunch(ready, s)); });
  check(cudaGraphExecDestroy(ready));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
  return us / kLaunches;
}

// Bytes a microsecond that a copy moves, reads and writes counted.
double bandwidth() {
  constexpr double kBytes = 1 << 30;
  Buffers buffers(true);
  auto* from = buffers.make<char>(kBytes);
  auto* to = buffers.make<char>(kBytes);
  const double us = timed(5, [&](cudaStream_t s) {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(kBytes), cudaMemcpyDeviceToDevice, s));
  });
  return 2 * kBytes / us;
}

void print(const Work& w, double rate, bool first) {
  std::printf("%s\n    {\"kernel\": \"%s\", \"size\": \"%s\", \"in_graph\": %s, \"bytes\": %.0f",
              first ? "" : ",", w.kernel.c_str(), w.size.c_str(), w.small ? "true" : "false",
              w.bytes);
  if (rate > 0) {
    const double us = w.small ? timed_in_graph(w) : timed(20, w.launch);
    const double floor = w.bytes / rate;
    std::printf(", \"floor_us\": %.3f, \"us\": %.3f, \"fraction\": %.3f", floor, us, floor / us);
  }
  std::printf("}");
  std::fflush(stdout);
}

int bench(bool plan) {
  int count = 0;
  const cudaError_t e = plan ? cudaSuccess : cudaGetDeviceCount(&count);
  if (!plan && (e != cudaSuccess || count == 0)) {
    std::fprintf(stderr, "dsv4-kernel-bench: there is no GPU: %s\n",
                 e == cudaSuccess ? "no device" : cudaGetErrorString(e));
    return 3;
  }
  double rate = 0;
  std::printf("{\n  \"schema_version\": 1,\n");
  if (!plan) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0));
    rate = bandwidth();
    std::printf("  \"device\": \"%s\",\n  \"copy_bytes_per_us\": %.0f,\n", properties.name, rate);
  }
  std::printf("  \"kernels\": [");
  bool first = true;
  for (const int tokens : {8192, 1, 16}) {
    Buffers buffers(!plan);
    for (const Work& w : works(buffers, tokens, tokens < 100)) {
      print(w, rate, first);
      first = false;
    }
  }
  std::printf("\n  ]\n}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool plan = argc == 2 && std::strcmp(argv[1], "--plan") == 0;
  if (argc > 1 && !plan) {
    std::fprintf(stderr, "usage: dsv4-kernel-bench [--plan]\n");
    return 2;
  }
  try {
    return bench(plan);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dsv4-kernel-bench: %s\n", e.what());
    return 1;
  }
}
