// SPDX-License-Identifier: Apache-2.0
// sm_90a on the emulator: mbarriers, TMA, wgmma, register allocation, clusters.
#pragma once

#include "cuda/isa/emulated_mma.hpp"

namespace dsv4::isa {
inline namespace emulated {

// ---- mbarrier: `bar` is 8 bytes of shared memory --------------------------------------------

void mbarrier_init(std::uint64_t* bar, std::uint32_t count, Where at = Where::current());
void mbarrier_arrive(std::uint64_t* bar, Where at = Where::current());
// Arrives and announces that copies will bring so many bytes.
void mbarrier_expect(std::uint64_t* bar, std::uint32_t bytes, Where at = Where::current());
// Waits until the phase of this parity (0 first) is complete.
void mbarrier_wait(std::uint64_t* bar, int parity, Where at = Where::current());
// The same barrier of another block of the cluster.
void mbarrier_arrive_cluster(std::uint64_t* bar, int rank, Where at = Where::current());
// Makes the barriers that this thread initialised visible to TMA and to the cluster.
inline void fence_barrier_init() { Machine::current().fence(emulator::Fence::barrier_init); }
// Orders this thread's st.shared before later TMA and wgmma (of anyone, after a barrier).
inline void fence_async_proxy() { Machine::current().fence(emulator::Fence::shared); }
// The same for st.global before TMA.
inline void fence_async_proxy_global() { Machine::current().fence(emulator::Fence::global); }

// ---- TMA ------------------------------------------------------------------------------------

enum class Swizzle : std::uint8_t { none, bytes128 };

// What a TensorMap holds here: rows of `width` elements, row_bytes apart, copied in boxes.
struct TensorShape {
  const void* base;
  std::int32_t width, height;
  std::int32_t element_bytes, row_bytes;
  std::int32_t box_width, box_height;
  Swizzle swizzle;
};
TensorMap make_tensor_map(const TensorShape& shape);

// The box whose first element is (x, y), zeros outside of the tensor, to shared memory; counts as
// its bytes on `bar`. One thread issues it.
void tma_load(void* to, const TensorMap* map, int x, int y, std::uint64_t* bar,
              Where at = Where::current());
// The same to the same place of every block of the cluster whose bit is set, and on its barrier.
void tma_load_multicast(void* to, const TensorMap* map, int x, int y, std::uint64_t* bar,
                        std::uint16_t blocks, Where at = Where::current());
void tma_store(const TensorMap* map, int x, int y, const void* from, Where at = Where::current());
void tma_store_commit();
void tma_store_wait_groups(std::size_t left);
template <int kLeft>
void tma_store_wait() {
  tma_store_wait_groups(kLeft);
}

// ---- wgmma: warpgroups of 128 threads -------------------------------------------------------

// K-major operands. 128-byte swizzle: rows of 128 bytes, eight rows an atom of 1024 bytes, atoms
// `stride` bytes apart. None: 8 rows x 16 bytes contiguous, `leading` bytes apart along k and
// `stride` along rows.
Descriptor wgmma_descriptor(const void* shared, int leading, int stride, Swizzle swizzle,
                            Where at = Where::current());
void wgmma_fence_registers(const float* d, Where at);
void wgmma_commit(Where at = Where::current());
void wgmma_wait_groups(std::size_t left, float* d, Where at);
// Before the first wgmma that adds to d, and again after a wait. What was done to d is done.
template <std::size_t kCount>
void wgmma_fence(float (&d)[kCount], Where at = Where::current()) {
  wgmma_fence_registers(d, at);
}
// Waits until all but the last kLeft groups are over; d may be used from here on, if they held it.
template <int kLeft, std::size_t kCount>
void wgmma_wait(float (&d)[kCount], Where at = Where::current()) {
  wgmma_wait_groups(kLeft, d, at);
}
void wgmma_issue(float* d, int n, Descriptor a, Descriptor b, bool accumulate,
                 emulator::Operand format, const char* operation, Where at);

// d[64, n] = a[64, k] b[n, k]^T (+ d). k is 16 for BF16, 32 for E4M3.
template <int kN>
void wgmma_bf16(float (&d)[kN / 2], Descriptor a, Descriptor b, bool accumulate,
                Where at = Where::current()) {
  static_assert(kN == 8 || kN == 64 || kN == 128);
  wgmma_issue(d, kN, a, b, accumulate, emulator::Operand::bf16, "wgmma.k16.bf16", at);
}
template <int kN>
void wgmma_e4m3(float (&d)[kN / 2], Descriptor a, Descriptor b, bool accumulate,
                Where at = Where::current()) {
  static_assert(kN == 8 || kN == 64 || kN == 128);
  wgmma_issue(d, kN, a, b, accumulate, emulator::Operand::e4m3, "wgmma.k32.e4m3", at);
}

void set_max_registers(int count, bool increase, Where at);
template <int kCount>
void set_max_registers_inc(Where at = Where::current()) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
  set_max_registers(kCount, true, at);
}
template <int kCount>
void set_max_registers_dec(Where at = Where::current()) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
  set_max_registers(kCount, false, at);
}

// ---- clusters -------------------------------------------------------------------------------

inline int cluster_rank() { return static_cast<int>(Machine::current().block().rank); }
inline int cluster_size() { return static_cast<int>(Machine::current().shape().cluster); }
void cluster_sync(Where at = Where::current());

void* remote(const void* p, int rank, std::size_t bytes, Touch kind, const char* operation,
             Where at);

// The same address in another block's shared memory.
template <class T>
T ld_cluster(const T* p, int rank, Where at = Where::current()) {
  T v;
  std::memcpy(&v, remote(p, rank, sizeof(T), Touch::read, "ld.shared::cluster", at), sizeof(T));
  return v;
}
template <class T>
void st_cluster(T* p, int rank, std::type_identity_t<T> v, Where at = Where::current()) {
  std::memcpy(remote(p, rank, sizeof(T), Touch::write, "st.shared::cluster", at), &v, sizeof(T));
}

}  // namespace emulated
}  // namespace dsv4::isa
