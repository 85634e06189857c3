// SPDX-License-Identifier: Apache-2.0
// sm_90a on a GPU: mbarriers, TMA, wgmma, register allocation, clusters.
#pragma once

#include "cuda/isa/device_core.hpp"
#include "cuda/isa/device_wgmma.hpp"

namespace dsv4::isa {
inline namespace device {

// ---- mbarrier -------------------------------------------------------------------------------

DSV4_DEVICE void mbarrier_init(std::uint64_t* bar, std::uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count)
               : "memory");
}
DSV4_DEVICE void mbarrier_arrive(std::uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
DSV4_DEVICE void mbarrier_expect(std::uint64_t* bar, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
               "r"(bytes)
               : "memory");
}
DSV4_DEVICE void mbarrier_wait(std::uint64_t* bar, int parity) {
  std::uint32_t done = 0;
  do {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(shared_address(bar)), "r"(parity)
        : "memory");
  } while (done == 0);
}
// The shared::cluster address of the same place in another block.
DSV4_DEVICE std::uint32_t cluster_address(const void* p, int rank) {
  std::uint32_t out;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(out)
               : "r"(shared_address(p)), "r"(rank));
  return out;
}
DSV4_DEVICE void mbarrier_arrive_cluster(std::uint64_t* bar, int rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                   cluster_address(bar, rank))
               : "memory");
}
DSV4_DEVICE void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DSV4_DEVICE void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
DSV4_DEVICE void fence_async_proxy_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

// ---- TMA ------------------------------------------------------------------------------------

enum class Swizzle : std::uint8_t { none, bytes128 };

DSV4_DEVICE void tma_load(void* to, const TensorMap* map, int x, int y, std::uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(bar))
      : "memory");
}
DSV4_DEVICE void tma_load_multicast(void* to, const TensorMap* map, int x, int y,
                                    std::uint64_t* bar, std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)), "h"(blocks)
      : "memory");
}
DSV4_DEVICE void tma_store(const TensorMap* map, int x, int y, const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(x), "r"(y), "r"(shared_address(from))
      : "memory");
}
DSV4_DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kLeft>
DSV4_DEVICE void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kLeft) : "memory");
}

// ---- wgmma ----------------------------------------------------------------------------------

DSV4_DEVICE Descriptor wgmma_descriptor(const void* shared, int leading, int stride,
                                        Swizzle swizzle) {
  const std::uint64_t kind = swizzle == Swizzle::bytes128 ? 1 : 0;
  return (static_cast<std::uint64_t>(shared_address(shared)) >> 4 & 0x3FFF) |
         (static_cast<std::uint64_t>(leading) >> 4 & 0x3FFF) << 16 |
         (static_cast<std::uint64_t>(stride) >> 4 & 0x3FFF) << 32 | kind << 62;
}
// The compiler does not know that a wgmma writes registers after its statement. So that nothing
// that is done to them moves over a fence or a wait, both name them, by a statement without code.
template <std::size_t kCount>
DSV4_DEVICE void pin_registers(float (&d)[kCount]) {
  DSV4_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <std::size_t kCount>
DSV4_DEVICE void wgmma_fence(float (&d)[kCount]) {
  pin_registers(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DSV4_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kLeft, std::size_t kCount>
DSV4_DEVICE void wgmma_wait(float (&d)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  pin_registers(d);
}

template <int kCount>
DSV4_DEVICE void set_max_registers_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
DSV4_DEVICE void set_max_registers_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// ---- clusters -------------------------------------------------------------------------------

DSV4_DEVICE int cluster_rank() {
  std::uint32_t out;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(out));
  return static_cast<int>(out);
}
DSV4_DEVICE int cluster_size() {
  std::uint32_t out;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(out));
  return static_cast<int>(out);
}
DSV4_DEVICE void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
template <class T>
DSV4_DEVICE T ld_cluster(const T* p, int rank) {
  DSV4_LOAD(T, "ld.shared::cluster", cluster_address(p, rank), "r")
}
template <class T>
DSV4_DEVICE void st_cluster(T* p, int rank, typename Same<T>::Type value) {
  DSV4_STORE(T, "st.shared::cluster", cluster_address(p, rank), "r", value)
}

}  // namespace device
}  // namespace dsv4::isa
