// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <random>

#include "cuda/kernel_bench/work.hpp"
#include "cuda/stages/launchers.hpp"

namespace dsv4::kernel_bench {
namespace {

using namespace kernels;
using namespace stages;
using isa::Bf16;

// DeepSeek-V4-Flash.
constexpr int d = 4096, n = 4, h = 64, c = 512, rope = 64, j = 128, i = 64, x = 256, a = 6;
constexpr int kMixes = (2 + n) * n;
constexpr double kKvRow = KvRow<c, rope>::bytes, kIndexRow = IndexRow<j>::bytes;

std::string rows(double count, int columns) {
  return std::to_string(static_cast<int>(count)) + " x " + std::to_string(columns);
}

// A launcher of launchers.hpp, bound to its arguments.
template <class Launch>
auto on_stream(Launch launch) {
  return [=](cudaStream_t stream) {
    stages::StreamGpu gpu(stream);
    launch(gpu);
  };
}

// Tokens of a kernel that moves little a token: what it reads shall not fit in L2.
int beyond_l2(int t) { return t < 100 ? t : 8 * t; }

void quantizers(std::vector<Work>& list, Buffers& b, int t) {
  const auto add = [&](const char* name, auto launch, double r, int columns, int block,
                       double code) {
    const double values = r * columns;
    const QuantizeArgs args{b.make<Bf16>(values), b.make<std::uint8_t>(values * code),
                            b.make<std::uint8_t>(values / block), static_cast<int>(r), columns};
    list.push_back({name, rows(r, columns), values * (2 + code + 1.0 / block), false,
                    on_stream([=](auto& gpu) { launch(gpu, args); })});
  };
  add(
      "quantize_fp8_128", [](auto& g, auto& q) { launch_quantize<Fp8, 128>(g, q); }, t, d, 128, 1);
  add(
      "quantize_fp8_64", [](auto& g, auto& q) { launch_quantize<Fp8, 64>(g, q); }, beyond_l2(t),
      c - rope, 64, 1);
  add(
      "quantize_fp4_32", [](auto& g, auto& q) { launch_quantize<Fp4, 32>(g, q); },
      static_cast<double>(t) * i, j, 32, 0.5);
}

void rows_alone(std::vector<Work>& list, Buffers& b, int t) {
  const double values = static_cast<double>(t) * d;
  const RmsNormArgs norm{b.make<Bf16>(values), b.make<float>(d), b.make<Bf16>(values), d, 1e-6F};
  list.push_back({"rms_norm", rows(t, d), 4 * values + 4 * d, false,
                  on_stream([=](auto& gpu) { launch_rms_norm(gpu, norm, t); })});
  const double r = static_cast<double>(t) * i;
  const HadamardArgs hadamard{b.make<Bf16>(r * j), b.make<Bf16>(r * j), static_cast<int>(r),
                              0.088F};
  list.push_back({"hadamard", rows(r, j), 4 * r * j, false,
                  on_stream([=](auto& gpu) { launch_hadamard<j>(gpu, hadamard); })});
}

void hyper_connections(std::vector<Work>& list, Buffers& b, int t) {
  const double values = static_cast<double>(t) * d;
  MhcArgs args{};
  args.y = b.make<Bf16>(values);
  args.streams = b.make<Bf16>(values * n);
  args.post = b.make<float>(t * n);
  args.comb = b.make<float>(t * n * n);
  args.out = b.make<Bf16>(values * n);
  args.fn = b.make<float>(static_cast<double>(kMixes) * n * d);
  args.base = b.make<float>(kMixes);
  args.scale = b.make<float>(3);
  args.mixes = b.make<float>(t * kMixes);
  args.pre = b.make<float>(t * n);
  args.next_post = b.make<float>(t * n);
  args.next_comb = b.make<float>(t * n * n);
  args.x = b.make<Bf16>(values);
  args.d = d;
  args.tokens = t;
  args.iterations = 20;
  args.norm_eps = args.hc_eps = 1e-6F;
  list.push_back({"mhc", rows(t, n * d), 20 * values + 4.0 * kMixes * n * d, false,
                  on_stream([=](auto& gpu) { launch_mhc<n>(gpu, args); })});
}

void attention(std::vector<Work>& list, Buffers& b, int t) {
  const double q = static_cast<double>(t) * h * c;
  AttentionInputArgs args{};
  args.q = b.make<Bf16>(q);
  args.kv = b.make<Bf16>(static_cast<double>(t) * c);
  args.kv_weight = b.make<float>(c);
  args.frequencies = b.make<float>(rope / 2);
  args.q_out = b.make<Bf16>(q);
  args.window = t;
  args.cache = b.make<std::uint8_t>(t * kKvRow);
  args.heads = h;
  args.tokens = t;
  args.eps = 1e-6F;
  list.push_back({"attention_inputs", rows(t, h * c), 4 * q + t * (2.0 * c + kKvRow), false,
                  on_stream([=](auto& gpu) { launch_attention_inputs<c, rope>(gpu, args); })});
  IndexQueryArgs index{};
  index.q = b.make<Bf16>(static_cast<double>(t) * i * j);
  index.frequencies = args.frequencies;
  index.out = b.make<std::uint8_t>(t * i * kIndexRow);
  index.heads = i;
  index.hadamard_scale = 0.088F;
  list.push_back({"index_queries", rows(t, i * j),
                  static_cast<double>(t) * i * (2.0 * j + kIndexRow), false,
                  on_stream([=](auto& gpu) { launch_index_queries<j, rope>(gpu, index, t); })});
}

void compressors(std::vector<Work>& list, Buffers& b, int tokens) {
  const auto add = [&](const char* name, auto launch, int t, int ratio, int width, int state,
                       double row) {
    CompressorArgs args{};
    args.kv = b.make<float>(static_cast<double>(t) * width);
    args.score = b.make<float>(static_cast<double>(t) * width);
    args.ape = b.make<float>(static_cast<double>(ratio) * width);
    args.kv_state = b.make<float>(static_cast<double>(state) * width);
    args.score_state = b.make<float>(static_cast<double>(state) * width);
    args.kv_state_out = b.make<float>(static_cast<double>(state) * width);
    args.score_state_out = b.make<float>(static_cast<double>(state) * width);
    args.norm = b.make<float>(c);
    args.frequencies = b.make<float>(rope / 2);
    args.ratio = ratio;
    args.start = t < ratio ? ratio - t : 0;  // so that an entry is completed
    args.tokens = t;
    args.eps = 1e-6F;
    args.hadamard_scale = 0.088F;
    const int entries = (args.start + t) / ratio;
    args.entries = b.make<std::uint8_t>(entries * row);
    // Tokens and, where the entry began before the call, the state; the state is written.
    const double read = t + (t < ratio ? static_cast<double>(state) : 0.0);
    list.push_back({name, rows(t, width), 8.0 * (read + state) * width + entries * row, false,
                    on_stream([=](auto& gpu) { launch(gpu, args); })});
  };
  add(
      "compress_csa", [](auto& g, auto& q) { launch_compress<true, false, c, rope>(g, q); }, tokens,
      4, 2 * c, 8, kKvRow);
  add(
      "compress_hca", [](auto& g, auto& q) { launch_compress<false, false, c, rope>(g, q); },
      beyond_l2(tokens), 128, c, 128, kKvRow);
  add(
      "compress_index", [](auto& g, auto& q) { launch_compress<true, true, j, rope>(g, q); },
      beyond_l2(tokens), 4, 2 * j, 8, kIndexRow);
}

void router(std::vector<Work>& list, Buffers& b, int tokens) {
  const int t = beyond_l2(tokens);
  GateArgs args{};
  args.logits = b.make<float>(static_cast<double>(t) * x);
  args.bias = b.make<float>(x);
  args.indices = b.make<std::int32_t>(t * a);
  args.weights = b.make<float>(t * a);
  args.tokens = t;
  args.experts = x;
  args.k = a;
  args.route_scale = 1.5F;
  list.push_back({"gate", rows(t, x), t * (4.0 * x + 8.0 * a), false,
                  on_stream([=](auto& gpu) { launch_gate(gpu, args); })});
}

// W is larger than the L2 cache. m rows: what one launch takes.
void products(std::vector<Work>& list, Buffers& b, int m) {
  const auto add = [&](const char* name, auto launch, int outputs, double code, double scales) {
    const double weights = static_cast<double>(outputs) * d;
    LinearArgs args{};
    args.x = b.make<Bf16>(static_cast<double>(m) * d);
    args.w = b.make<std::uint8_t>(weights * code);
    args.w_scale = b.make<std::uint8_t>(weights / scales);
    args.y_bf16 = b.make<Bf16>(static_cast<double>(m) * outputs);
    args.m = m;
    args.n = args.y_stride = outputs;
    args.k = args.x_stride = d;
    const double bytes = weights * (code + 1 / scales) + 2.0 * m * (d + outputs);
    list.push_back({name, "m " + std::to_string(m) + ", " + rows(outputs, d), bytes, false,
                    on_stream([=](auto& gpu) { launch(gpu, args); })});
  };
  // launch_linear takes the tiled kernel above four rows.
  add(
      m > 4 ? "linear_tiled_e4m3" : "linear_e4m3",
      [](auto& g, auto& q) { launch_linear<E4m3Weight>(g, q); }, 32768, 1, 16384);
  add(
      m > 4 ? "linear_tiled_e2m1" : "linear_e2m1",
      [](auto& g, auto& q) { launch_linear<E2m1Weight>(g, q); }, 65536, 0.5, 32);
}

}  // namespace

// The same 16 MB over and over: more than any cache keeps of what it has just seen.
void fill(void* p, std::size_t bytes, std::uint32_t keep, std::uint32_t set) {
  constexpr std::size_t kPattern = 16 << 20;
  std::vector<std::uint32_t> words(std::min(bytes, kPattern) / 4 + 1);
  std::mt19937 random(1);
  for (std::uint32_t& w : words) w = (static_cast<std::uint32_t>(random()) & keep) | set;
  for (std::size_t done = 0; done < bytes; done += kPattern) {
    check(cudaMemcpy(static_cast<char*>(p) + done, words.data(), std::min(bytes - done, kPattern),
                     cudaMemcpyHostToDevice));
  }
}

std::vector<Work> works(Buffers& buffers, int tokens, bool small) {
  std::vector<Work> list;
  quantizers(list, buffers, tokens);
  rows_alone(list, buffers, tokens);
  hyper_connections(list, buffers, tokens);
  attention(list, buffers, tokens);
  compressors(list, buffers, tokens);
  router(list, buffers, tokens);
  for (Work& w : list) w.small = small;
  if (small) products(list, buffers, tokens > 4 ? 16 : tokens);
  return list;
}

}  // namespace dsv4::kernel_bench
