// SPDX-License-Identifier: Apache-2.0
// What run*.hpp need of any device. A `Gpu` has
//   in(name, values)            a copy that kernels read; null where there are none
//   constant, aligned           the same for other types and for bytes
//   out_floats(name, count)     memory that kernels write; out_bf16, out_bytes, out_integers
//   launch<n, r>(shape, body)   runs DSV4_BODY { … } once per thread, n a block at most
//   launch_cluster<n, r>        the same for bodies that use clusters
//   clusters()                  blocks can form clusters: sm_90 and later
//   processors()                blocks that run at the same time, at least
//   take(pointer, count)        what was written
#pragma once

#include <cstddef>

#ifdef __CUDACC__
#define DSV4_BODY [=] __device__
#else
#define DSV4_BODY [=]
#endif

namespace dsv4::stages {

inline unsigned count(int n) { return static_cast<unsigned>(n); }
inline std::size_t size(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}
inline unsigned blocks(int items, int per) {
  return static_cast<unsigned>((items + per - 1) / per);
}

}  // namespace dsv4::stages
